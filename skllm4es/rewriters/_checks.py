"""What all rewriters ask of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

from skllm4es._messages import did_you_mean
from skllm4es.formats import FORMATS


def check_lengths(texts: Sequence[str], formats: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse arguments of `rewrite` that do not run in parallel."""
    for name, value in (("texts", texts), ("formats", formats)):
        if isinstance(value, str):
            raise TypeError(f"{name} is a sequence of strings, one a text; got the one string {value[:60]!r}.")
    if not len(texts) == len(formats) == len(seeds):
        raise ValueError(
            "texts, formats and seeds run in parallel and must have one length; "
            f"got {len(texts)} texts, {len(formats)} formats and {len(seeds)} seeds."
        )


def check_formats(formats: Sequence[str], known: Sequence[str] = tuple(FORMATS)) -> None:
    """Refuse formats that a rewriter does not know."""
    unknown = sorted({str(name) for name in formats if name not in known})
    if unknown:
        hint = did_you_mean(unknown, known)
        raise ValueError(f"Unknown formats: {unknown}.{hint} The formats are {list(known)}.")
