"""Rewriting by templates: the default of the enrichment, which needs no model.

Texts are parsed and written again by the formats of `skllm4es.formats`, with a random layout each time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sklearn.base import BaseEstimator

from skllm4es.formats import FORMATS, Variation
from skllm4es.rewriters._base import UnreadableTextError
from skllm4es.rewriters._checks import as_lists, check_formats
from skllm4es.serialize import EventTable, parse_events


class TemplateRewriter(BaseEstimator):
    r"""Rewrite serialised texts by templates of random structure.

    In every format the order and spelling of the fields, the layout, the grouping, the notation of dates and amounts,
    the title and a closing analysis vary with the seed. No event and no value is lost, except in the format
    "breakdown", which is a summary.

    Parameters
    ----------
    paraphrase_names : bool, default=True
        Whether to spell the names of the fields in other styles and with synonyms.
    vary_values : bool, default=True
        Whether to write dates and amounts in other notations, for example ``2020-03-05`` as ``5 March 2020``.
    analysis : bool, default=True
        Whether to end some of the texts with a few sentences on all events, such as totals.

    Attributes
    ----------
    lossless : bool
        True. A subclass that loses values sets it to False.
    cheap : bool
        True.

    See Also
    --------
    skllm4es.formats.FORMATS : The formats.
    skllm4es.TextEnricher : The transformer that calls a rewriter.

    Examples
    --------
    >>> from skllm4es.rewriters import TemplateRewriter
    >>> text = "date|mcc|amount\n2020-03-05, Groceries, 1250.00\n2020-03-06, Fuel, 300.50"
    >>> rewriter = TemplateRewriter()
    >>> print(rewriter.rewrite([text], ["markdown"], [2])[0])
    # Transaction history
    <BLANKLINE>
    - **date**: 05.03.2020; **MCC**: Groceries; **value**: 1250.00
    - **date**: 06.03.2020; **MCC**: Fuel; **value**: 300.50
    <BLANKLINE>
    > - Lowest value: 300.50
    >>> print(rewriter.rewrite([text], ["narrative"], [1])[0])
    List of events.
    <BLANKLINE>
    On 2020-03-05, an event was recorded: amount 1,250.00 and merchant type Groceries.
    On 2020-03-06, an event was noted in which the amount was 300.50 and the merchant type was Fuel.
    """

    lossless = True
    cheap = True

    def __init__(self, paraphrase_names: bool = True, vary_values: bool = True, analysis: bool = True) -> None:
        self.paraphrase_names = paraphrase_names
        self.vary_values = vary_values
        self.analysis = analysis

    def rewrite(self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Rewrite each text into its format.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format of each rewritten text, one of `available_formats`.
        seeds : sequence of int of length n_texts
            The seed of each rewriting. The same text, format and seed give the same result, whatever else is
            in the call.

        Returns
        -------
        list of str of length n_texts
            The rewritten texts.

        Raises
        ------
        RewritingError
            If a text is not in the serialised form; the error is a ValueError as well.
        """
        texts, formats, seeds = as_lists(texts, formats, seeds)
        check_formats(formats)
        variation = Variation(self.paraphrase_names, self.vary_values, self.analysis)
        tables = [_parse(text, f"Text {place}: " if len(texts) > 1 else "") for place, text in enumerate(texts)]
        return [
            FORMATS[name].render(table, _generator(text, name, seed), variation)
            for table, text, name, seed in zip(tables, texts, formats, seeds, strict=True)
        ]


def _parse(text: str, which: str) -> EventTable:
    try:
        return parse_events(text)
    except ValueError as error:
        raise UnreadableTextError(f"{which}{error}") from error


def _generator(text: str, name: str, seed: int) -> random.Random:
    """Return a generator that also depends on the text, so that texts with the same seed look different."""
    return random.Random(f"{seed} {name} {text}".encode("utf-8", "surrogatepass"))
