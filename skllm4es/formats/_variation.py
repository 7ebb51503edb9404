"""What a rewriting may change besides its markup."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variation:
    r"""What may differ from the original text, besides its markup and the order of its fields.

    Parameters
    ----------
    names : bool, default=True
        Paraphrase the names of the fields.
    values : bool, default=True
        Write dates and amounts in other ways.
    analysis : bool, default=True
        End some texts with a short analysis of the events.

    Examples
    --------
    >>> import random
    >>> from skllm4es.formats import FORMATS, Variation
    >>> from skllm4es.serialize import parse_events
    >>> table = parse_events("title|rating\nHeat, 5")
    >>> variation = Variation(names=False)
    >>> "title" in FORMATS["json"].render(table, random.Random(0), variation).lower()
    True
    """

    names: bool = True
    values: bool = True
    analysis: bool = True
