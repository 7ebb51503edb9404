"""Running a rewriter: each request once, from the cache if possible, cached as soon as it is done, and checked.

`TextEnricher` chooses what to rewrite. Here it is rewritten, either one result after the other by a language model, or
in several processes by templates.
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
from skllm4es.rewriters import Rewriter, RewritingError
from skllm4es.rewriters._base import UnusableAnswerError

#: Texts that a process rewrites between two updates of the progress bar ...
_CHUNK_SIZE = 256
#: ... and if each chunk is cached, by a rewriter that may be slow.
_CACHED_CHUNK_SIZE = 16


class Request(NamedTuple):
    """Everything that a rewriting depends on, besides the rewriter."""

    text: str
    format: str
    seed: int


class Rewriting(NamedTuple):
    """A rewritten text, or the error of the rewriter, and what the check found.

    Recall and precision are NaN if they are unknown. `fault` is "" or one of "failed", "unfaithful", "repeated" and
    "unchecked"; `reason` describes it.
    """

    text: str | RewritingError
    recall: float = math.nan
    precision: float = math.nan
    fault: str = ""
    reason: str = ""


def rewrite_all(
    rewriter: Rewriter,
    requests: Sequence[Request],
    *,
    min_recall: float | None,
    cache: RewriteCache | None,
    n_jobs: int | None,
    bar: tqdm[Any],
) -> dict[Request, Rewriting]:
    """Rewrite all requests; equal ones are rewritten once.

    Texts whose recall is below `min_recall` are unfaithful; None skips the check. `cache` requires a rewriter with a
    ``cache_key``, and `n_jobs` has no effect on one that streams. A rewriter that violates the protocol raises a
    `ValueError`.
    """
    distinct = list(dict.fromkeys(requests))
    bar.total = (bar.total or 0) + len(distinct)
    bar.refresh()
    keys = {} if cache is None else _cache_keys(rewriter, distinct)
    cached = {} if cache is None else cache.read(list(keys.values()))
    done = {request: check(request, cached[key], min_recall) for request, key in keys.items() if key in cached}
    missing = [request for request in distinct if request not in done]
    bar.update(len(done))
    if not missing:  # There is no need to load a model.
        return done
    if hasattr(rewriter, "iter_rewrites"):
        results = _stream(rewriter, missing, min_recall, bar)
    else:
        size = _CHUNK_SIZE if cache is None else _CACHED_CHUNK_SIZE
        results = _in_chunks(rewriter, missing, min_recall, n_jobs, size, bar)
    with nullcontext() if cache is None else cache.writing() as write:
        for request, rewriting in results:
            if write and isinstance(rewriting.text, str | UnusableAnswerError):
                write(keys[request], rewriting.text)
            done[request] = rewriting
    return done


def check(request: Request, text: str | RewritingError, min_recall: float | None) -> Rewriting:
    """Compare a rewritten text with its original, unless `min_recall` is None.

    Only formats that are known to keep every value must reach `min_recall`.
    """
    if isinstance(text, RewritingError):
        return Rewriting(text, fault="failed", reason=str(text))
    if min_recall is None:
        return Rewriting(text)
    try:
        recall, precision, _ = compare(request.text, text)
    except ValueError:
        recall = precision = math.nan
    text_format, fault, reason = FORMATS.get(request.format), "", ""
    if text_format is not None and text_format.complete:
        if not text_format.looks_like(text):
            fault, reason = "unfaithful", f"not in the form of {request.format}"
        elif recall < min_recall:
            fault, reason = "unfaithful", f"recall {recall:.2f}"
        elif math.isnan(recall):
            fault, reason = "unchecked", "the raw text is not in the serialised form"
    return Rewriting(text, recall, precision, fault, reason)


def _cache_keys(rewriter: Any, requests: Sequence[Request]) -> dict[Request, bytes]:
    """Hash everything that each rewriting depends on; the prompt of one format concerns its own rewritings alone."""
    shared = rewriter.cache_key()
    prompt_key = getattr(rewriter, "prompt_key", lambda format_name: "")
    prompts = {name: prompt_key(name) for name in {request.format for request in requests}}
    return {
        request: hash_of(shared, prompts[request.format], request.text, request.format, str(request.seed))
        for request in requests
    }


def _stream(
    rewriter: Any, requests: list[Request], min_recall: float | None, bar: tqdm[Any]
) -> Iterator[tuple[Request, Rewriting]]:
    start, n_before, seen = perf_counter(), getattr(rewriter, "n_tokens", 0), set()
    for position, text in rewriter.iter_rewrites(*map(list, zip(*requests, strict=True))):
        if position in seen or not 0 <= position < len(requests) or not isinstance(text, str | RewritingError):
            raise ValueError(
                f"{type(rewriter).__name__}.iter_rewrites must yield each position from 0 to {len(requests) - 1} once, "
                f"with a str or a RewritingError; it yielded {position!r} with {text!r:.60}."
            )
        seen.add(position)
        if n_tokens := getattr(rewriter, "n_tokens", 0) - n_before:
            rate = n_tokens / (perf_counter() - start)
            bar.set_postfix_str(f"{n_tokens:,} tokens, {rate:,.0f} tokens/s", refresh=False)
        bar.update(1)
        yield requests[position], check(requests[position], text, min_recall)
    if len(seen) < len(requests):
        raise ValueError(
            f"{type(rewriter).__name__}.iter_rewrites must yield each position once; it yielded {len(seen)} of "
            f"{len(requests)}."
        )


def _in_chunks(
    rewriter: Rewriter, requests: list[Request], min_recall: float | None, n_jobs: int | None, size: int, bar: tqdm[Any]
) -> Iterator[tuple[Request, Rewriting]]:
    workers = joblib.effective_n_jobs(n_jobs)  # type: ignore[arg-type]
    size = size if workers == 1 else max(1, min(size, math.ceil(len(requests) / (4 * workers))))
    chunks = [requests[start : start + size] for start in range(0, len(requests), size)]
    results = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(
        joblib.delayed(_rewrite_chunk)(rewriter, chunk, min_recall) for chunk in chunks
    )
    for chunk, rewritings in zip(chunks, results, strict=True):
        bar.update(len(chunk))
        yield from zip(chunk, rewritings, strict=True)


def _rewrite_chunk(rewriter: Rewriter, requests: Sequence[Request], min_recall: float | None) -> list[Rewriting]:
    texts = _rewrite(rewriter, requests)
    return [check(request, text, min_recall) for request, text in zip(requests, texts, strict=True)]


def _rewrite(rewriter: Rewriter, requests: Sequence[Request]) -> Sequence[str | RewritingError]:
    """Rewrite all at once, or one by one if a text fails, so that the others are not lost."""
    texts, formats, seeds = map(list, zip(*requests, strict=True))
    try:
        rewritten = list(rewriter.rewrite(texts, formats, seeds))
    except RewritingError as error:
        if len(requests) == 1:
            return [error]
        return [_rewrite(rewriter, [request])[0] for request in requests]
    invalid = [text for text in rewritten if not isinstance(text, str)]
    if len(rewritten) != len(requests) or invalid:
        raise ValueError(
            f"{type(rewriter).__name__}.rewrite must return one str per text; it returned {len(rewritten)} "
            f"for {len(requests)} texts" + (f", among them {invalid[0]!r}." if invalid else ".")
        )
    return rewritten
