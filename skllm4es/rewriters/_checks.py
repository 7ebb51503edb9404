"""Checks of the arguments of `rewrite`, shared by all rewriters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skllm4es._messages import did_you_mean
from skllm4es._texts import cells
from skllm4es.formats import FORMATS


def as_lists(
    texts: Iterable[str], formats: Iterable[str], seeds: Iterable[int]
) -> tuple[list[str], list[str], list[int]]:
    """Read the arguments of `rewrite`, each of them once, and reject those that do not run in parallel."""
    for name, value in (("texts", texts), ("formats", formats)):
        if isinstance(value, str | bytes) or hasattr(value, "columns"):
            raise TypeError(
                f"{name} must be a sequence of strings, one per text; got {type(value).__name__} {value!r:.60}."
            )
    lists = cells(texts), cells(formats), cells(seeds)
    for position, text in enumerate(lists[0]):
        if not isinstance(text, str):
            raise TypeError(f"texts must be strings, but text {position} is {type(text).__name__} ({text!r:.60}).")
    n_texts, n_formats, n_seeds = map(len, lists)
    if not n_texts == n_formats == n_seeds:
        raise ValueError(
            "texts, formats and seeds must have the same length; "
            f"got {n_texts} texts, {n_formats} formats and {n_seeds} seeds."
        )
    return lists


def check_formats(formats: Sequence[str], known: Sequence[str] = tuple(FORMATS)) -> None:
    """Raise an error for formats that a rewriter does not know."""
    unknown = sorted({str(name) for name in formats if name not in known})
    if unknown:
        hint = did_you_mean(unknown, known)
        raise ValueError(f"Unknown formats: {unknown}.{hint} The formats are {list(known)}.")
