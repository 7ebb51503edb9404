"""Running a rewriter over many texts: each draw once, from the cache where it is there, kept as it comes, checked.

`TextEnricher` says what to draw; here it is drawn, by a language model one result after the other, or by templates in
several processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from time import perf_counter
from typing import Any, NamedTuple

import joblib
from tqdm.auto import tqdm

from skllm4es._store import hash_of
from skllm4es.enrich._faithfulness import compare
from skllm4es.enrich._rewrite_cache import RewriteCache
from skllm4es.formats import FORMATS
from skllm4es.rewriters import Rewriter, RewritingError, StreamingRewriter

#: Texts that one process rewrites between two steps of the progress bar.
_CHUNK = 256
#: The same where they are kept from then on; what rewrites them may take its time.
_KEPT_CHUNK = 16


class Draw(NamedTuple):
    """All that determines a rewriting, besides the rewriter."""

    text: str
    format: str
    seed: int


class Drawn(NamedTuple):
    """A rewriting, or why there is none.

    Parameters
    ----------
    text : str or RewritingError
        What the rewriter gave.
    recall, precision : float
        How faithful it is; NaN where that was not or could not be told.
    in_form : bool
        Whether it looks like its format; True where that was not told.
    """

    text: str | RewritingError
    recall: float = math.nan
    precision: float = math.nan
    in_form: bool = True


def draw_all(
    rewriter: Rewriter,
    draws: Sequence[Draw],
    *,
    check: bool,
    cache: RewriteCache | None,
    n_jobs: int | None,
    bar: tqdm[Any],
) -> dict[Draw, Drawn]:
    """Make the rewritings of all draws.

    Parameters
    ----------
    rewriter : Rewriter
        What rewrites.
    draws : sequence of Draw
        What to rewrite; equal draws are made once.
    check : bool
        Whether to tell how faithful each is.
    cache : RewriteCache or None
        Where texts are kept, of a rewriter with a ``cache_key``.
    n_jobs : int or None
        Number of processes for a rewriter that does not stream.
    bar : tqdm
        Progress bar.

    Returns
    -------
    dict of Draw to Drawn
        The rewriting of each draw.

    Raises
    ------
    ValueError
        If the rewriter does not keep to the protocol.
    """
    distinct = list(dict.fromkeys(draws))
    bar.total = (bar.total or 0) + len(distinct)
    bar.refresh()
    keys = {} if cache is None else _keys(rewriter, distinct)
    kept = {} if cache is None else cache.read(list(keys.values()))
    drawn = {draw: measure(draw, kept[key], check) for draw, key in keys.items() if key in kept}
    missing = [draw for draw in distinct if draw not in drawn]
    bar.update(len(drawn))
    if not missing:  # Nothing for which to load a model.
        return drawn
    if isinstance(rewriter, StreamingRewriter):
        results = _stream(rewriter, missing, check, bar)
    else:
        results = _in_chunks(rewriter, missing, check, n_jobs, _CHUNK if cache is None else _KEPT_CHUNK, bar)
    with nullcontext() if cache is None else cache.writing() as write:
        for draw, result in results:
            if write and isinstance(result.text, str):
                write(keys[draw], result.text)
            drawn[draw] = result
    return drawn


def measure(draw: Draw, text: str | RewritingError, check: bool = True) -> Drawn:
    """Tell how faithful a rewriting is, if it can be told.

    Parameters
    ----------
    draw : Draw
        What was to be rewritten.
    text : str or RewritingError
        Its rewriting.
    check : bool, default=True
        Whether to compare them at all.

    Returns
    -------
    Drawn
        The rewriting, with recall and precision.
    """
    if not check or isinstance(text, RewritingError):
        return Drawn(text)
    in_form = draw.format not in FORMATS or FORMATS[draw.format].looks_like(text)
    try:
        recall, precision, _ = compare(draw.text, text)
    except ValueError:  # The original is not in the serialised form.
        return Drawn(text, in_form=in_form)
    return Drawn(text, recall, precision, in_form)


def _stream(
    rewriter: StreamingRewriter, draws: list[Draw], check: bool, bar: tqdm[Any]
) -> Iterator[tuple[Draw, Drawn]]:
    start, n_tokens, came = perf_counter(), rewriter.n_tokens, set()
    for position, text in rewriter.iter_rewrites(*map(list, zip(*draws, strict=True))):
        if position in came or not 0 <= position < len(draws) or not isinstance(text, str | RewritingError):
            raise ValueError(
                f"{type(rewriter).__name__}.iter_rewrites must give each position from 0 to {len(draws) - 1} once, "
                f"with a str or a RewritingError; it gave {position!r} with {text!r:.60}."
            )
        came.add(position)
        written = rewriter.n_tokens - n_tokens
        bar.set_postfix_str(f"{written:,} tokens, {written / (perf_counter() - start):,.0f} tokens/s", refresh=False)
        bar.update(1)
        yield draws[position], measure(draws[position], text, check)
    if len(came) < len(draws):
        raise ValueError(
            f"{type(rewriter).__name__}.iter_rewrites must give each position once; it gave {len(came)} of "
            f"{len(draws)}."
        )


def _in_chunks(
    rewriter: Rewriter, draws: list[Draw], check: bool, n_jobs: int | None, size: int, bar: tqdm[Any]
) -> Iterator[tuple[Draw, Drawn]]:
    workers = joblib.effective_n_jobs(n_jobs)  # type: ignore[arg-type]
    size = size if workers == 1 else max(1, min(size, math.ceil(len(draws) / (4 * workers))))
    chunks = [draws[start : start + size] for start in range(0, len(draws), size)]
    results = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(
        joblib.delayed(_draw_chunk)(rewriter, chunk, check) for chunk in chunks
    )
    for chunk, result in zip(chunks, results, strict=True):
        bar.update(len(chunk))
        yield from zip(chunk, result, strict=True)


def _keys(rewriter: Any, draws: Sequence[Draw]) -> dict[Draw, bytes]:
    """Hash what determines each rewriting."""
    key = rewriter.cache_key()
    return {draw: hash_of(key, draw.text, draw.format, str(draw.seed)) for draw in draws}


def _draw_chunk(rewriter: Rewriter, draws: Sequence[Draw], check: bool) -> list[Drawn]:
    return [measure(draw, text, check) for draw, text in zip(draws, _rewrite(rewriter, draws), strict=True)]


def _rewrite(rewriter: Rewriter, draws: Sequence[Draw]) -> Sequence[str | RewritingError]:
    """Rewrite all at once; one by one where one of them fails, which must not lose the others."""
    texts, formats, seeds = map(list, zip(*draws, strict=True))
    try:
        rewritten = list(rewriter.rewrite(texts, formats, seeds))
    except RewritingError as error:
        if len(draws) == 1:
            return [error]
        return [_rewrite(rewriter, [draw])[0] for draw in draws]
    strange = [text for text in rewritten if not isinstance(text, str)]
    if len(rewritten) != len(draws) or strange:
        raise ValueError(
            f"{type(rewriter).__name__}.rewrite must give one str for each text; it gave {len(rewritten)} "
            f"for {len(draws)} texts" + (f", among them {strange[0]!r}." if strange else ".")
        )
    return rewritten
