"""Checks of the arguments of `rewrite`, shared by all rewriters."""

from __future__ import annotations

from collections.abc import Sequence

from skllm4es._messages import did_you_mean
from skllm4es.formats import FORMATS


def check_lengths(texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]) -> None:
    """Raise an error if the arguments of `rewrite` differ in length."""
    for name, value in (("texts", texts), ("formats", formats)):
        if isinstance(value, str):
            raise TypeError(
                f"{name} must be a sequence of strings, one per text; got the single string {value[:60]!r}."
            )
    if not len(texts) == len(formats) == len(seeds):
        raise ValueError(
            "texts, formats and seeds must have the same length; "
            f"got {len(texts)} texts, {len(formats)} formats and {len(seeds)} seeds."
        )


def check_formats(formats: Sequence[str], known: Sequence[str] = tuple(FORMATS)) -> None:
    """Raise an error for formats that a rewriter does not know."""
    unknown = sorted({str(name) for name in formats if name not in known})
    if unknown:
        hint = did_you_mean(unknown, known)
        raise ValueError(f"Unknown formats: {unknown}.{hint} The formats are {list(known)}.")
