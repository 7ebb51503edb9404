"""The rewriter protocol: rewriters turn serialised texts into other texts that describe the same events.

`TextEnricher` chooses the format of each text, checks the results and caches them; a rewriter only rewrites.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from skllm4es.formats import FORMATS


def available_formats() -> list[str]:
    """Return the names of the formats that the rewriters of this package know.

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
    """Protocol of an object that rewrites serialised texts.

    A rewriter follows scikit-learn's conventions for parameters: the constructor only assigns them, and
    ``get_params`` and ``set_params`` reach them, so that a search over ``enrich__rewriter__...`` works.

    A text that cannot be rewritten raises a `RewritingError`, which `TextEnricher` handles as its `on_error` says. Any
    other exception ends the run. A rewriter that knows which text failed can still return the others if it is a
    `StreamingRewriter`.

    Attributes
    ----------
    default_formats : sequence of str, optional
        The formats that `TextEnricher` asks for by default; `available_formats` if there is no such attribute.
    lossless : bool, optional
        Whether the rewriter keeps every value of every event, except in formats that are summaries. If so,
        ``check="warn"`` skips the comparison. Absent means False.
    cheap : bool, optional
        Whether rewriting a text costs next to nothing. If so, `TextEnricher` does not cache the texts, and makes up to
        20 attempts to avoid equal variants. Absent means False.
    cache_key : method, optional
        Takes no arguments and returns a string that names everything a rewriting depends on besides its text, format
        and seed, for example the class, its version and its parameters. Without it, nothing is cached.
    prompt_key : method, optional
        Takes the name of a format and returns a string that names what only the rewritings into this format depend on,
        such as a prompt. A change then invalidates the cached texts of this format alone.

    Examples
    --------
    >>> from skllm4es.rewriters import Rewriter, TemplateRewriter
    >>> isinstance(TemplateRewriter(), Rewriter)
    True
    """

    def rewrite(self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Rewrite each text into its format.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format of each rewritten text.
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
    r"""Raised for a text that cannot be rewritten, while others can.

    Rewriters of your own raise it in ``rewrite``, and yield it in place of the text in ``iter_rewrites``. `memory` of
    `TextEnricher` does not keep their errors: the next run tries these texts again.

    Examples
    --------
    >>> from skllm4es.rewriters import OpenAIRewriter, RewritingError
    >>> rewriter = OpenAIRewriter("Qwen/Qwen2.5-7B-Instruct", "http://localhost:8000/v1")
    >>> for position, result in rewriter.iter_rewrites(["a|b\n1"], ["json"], [0]):
    ...     print(position, "failed" if isinstance(result, RewritingError) else result)
    0 failed
    """


class UnreadableTextError(RewritingError, ValueError):
    """Raised for a text that is not in the serialised form, so that another seed does not help."""


class UnusableAnswerError(RewritingError):
    """Raised for a text whose answer by a local model is unusable, as it most likely would be again."""


@runtime_checkable
class StreamingRewriter(Rewriter, Protocol):
    """Protocol of a slow rewriter that returns texts one by one, such as a language model.

    `TextEnricher` caches each text as soon as it arrives, so that an interrupted run loses nothing.

    Examples
    --------
    >>> from skllm4es.rewriters import StreamingRewriter, TemplateRewriter
    >>> from skllm4es.rewriters import TransformersRewriter
    >>> isinstance(TransformersRewriter("Qwen/Qwen3-0.6B"), StreamingRewriter)
    True
    >>> isinstance(TemplateRewriter(), StreamingRewriter)
    False
    """

    def iter_rewrites(
        self, texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[tuple[int, str | RewritingError]]:
        """Rewrite each text into its format, and yield each result as soon as it is available.

        Parameters
        ----------
        texts : sequence of str of length n_texts
            Serialised events, as `EventSerializer` writes them.
        formats : sequence of str of length n_texts
            The format of each rewritten text.
        seeds : sequence of int of length n_texts
            The seed of each rewriting.

        Yields
        ------
        (int, str or RewritingError)
            The position of a text, and its rewriting or the error of this text. Each position comes once, in any
            order. The error of a single text is yielded, not raised, so that the others continue; an error that
            concerns all texts, such as an unreachable server, is raised and is not a `RewritingError`.
        """
        ...

    def cache_key(self) -> str:
        """Return everything that rewritings of all formats depend on: class, model, sampling.

        Returns
        -------
        str
            The key under which rewritings are cached. It holds no secret.
        """
        ...

    @property
    def n_tokens(self) -> int:
        """Number of tokens read and written so far, for the progress bar."""
        ...
