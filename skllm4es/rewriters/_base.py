"""What a rewriter is: the part of the enrichment that turns texts into other texts.

`TextEnricher` decides which texts become which formats, keeps the results and checks them; a rewriter only
rewrites. Templates, language models and the prior methods all keep to this protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from skllm4es.formats import FORMATS


def available_formats() -> list[str]:
    """Give the names of the formats that the rewriters of this package know.

    Returns
    -------
    list of str
        The names, in a fixed order.

    Examples
    --------
    >>> from skllm4es.rewriters import available_formats
    >>> available_formats()
    ['json', 'markdown', 'html', 'xml', 'yaml', 'table', 'sql', 'narrative', 'breakdown']
    """
    return list(FORMATS)


@runtime_checkable
class Rewriter(Protocol):
    """Rewrites the serialised texts of users.

    A rewriter follows scikit-learn's conventions for parameters: the constructor only assigns them, and
    ``get_params`` and ``set_params`` reach them, so that a search over ``enrich__rewriter__...`` works.

    A text that cannot be rewritten is a `RewritingError`, on which `TextEnricher` does what its `on_error` says. Any
    other exception is taken to befall all texts, and ends the run. A rewriter that knows which text failed can give
    the others all the same if it is a `StreamingRewriter`.

    Examples
    --------
    >>> from skllm4es.rewriters import Rewriter, TemplateRewriter
    >>> isinstance(TemplateRewriter(), Rewriter)
    True
    """

    def rewrite(self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Rewrite each text into the format beside it.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format to write each text in.
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
            If a text cannot be rewritten.
        """
        ...


class RewritingError(RuntimeError):
    r"""One text could not be rewritten; the others can be.

    Rewriters of your own raise it in ``rewrite``, and yield it in the place of the text in ``iter_rewrites``.

    Examples
    --------
    >>> from skllm4es.rewriters import OpenAIRewriter, RewritingError
    >>> rewriter = OpenAIRewriter("Qwen/Qwen2.5-7B-Instruct", "http://localhost:8000/v1")
    >>> for position, result in rewriter.iter_rewrites(["a|b\n1"], ["json"], [0]):
    ...     print(position, "failed" if isinstance(result, RewritingError) else result)
    0 failed
    """


@runtime_checkable
class StreamingRewriter(Rewriter, Protocol):
    """A rewriter that takes its time: a language model, here or behind a server.

    `TextEnricher` keeps what it gives as it comes, so that an interrupted run loses nothing.

    Examples
    --------
    >>> from skllm4es.rewriters import StreamingRewriter, TemplateRewriter, TransformersRewriter
    >>> isinstance(TransformersRewriter("Qwen/Qwen3-0.6B"), StreamingRewriter)
    True
    >>> isinstance(TemplateRewriter(), StreamingRewriter)
    False
    """

    def iter_rewrites(
        self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[tuple[int, str | RewritingError]]:
        """Rewrite each text into the format beside it, and give each result when it is there.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format to write each text in.
        seeds : sequence of int of length n_texts
            The seed of each rewriting.

        Yields
        ------
        (int, str or RewritingError)
            The position of a text, and its rewriting or what went wrong with this one text. Each position comes
            once, in any order. A `RewritingError` of one text is given, not raised, so that the others go on; what
            befalls all texts (a server that stays away) is raised, and is no `RewritingError`.
        """
        ...

    def cache_key(self) -> str:
        """Tell all that determines a rewriting besides text, format and seed: class, model, prompts, sampling.

        Returns
        -------
        str
            The key under which rewritings are kept. It holds no secret.
        """
        ...

    @property
    def n_tokens(self) -> int:
        """How many tokens this rewriter has read and written so far, for the progress bar."""
        ...
