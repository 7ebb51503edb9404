"""Errors and warnings that several modules word in the same way."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches

#: Libraries that call this package, or are called by it and call back.
_BETWEEN = {"skllm4es", "sklearn", "joblib", "transformers"}


def did_you_mean(unknown: Iterable[object], known: Iterable[str]) -> str:
    """Suggest known names that are close to unknown ones, as a question after a space; empty if there are none.

    >>> from skllm4es._messages import did_you_mean
    >>> did_you_mean(["jason", "x"], ["html", "json"])
    " Did you mean ['json']?"
    """
    names = list(known)
    close = [match for name in unknown for match in get_close_matches(str(name), names, n=1)]
    return f" Did you mean {close}?" if close else ""


def raise_if(problems: list[str], what: str, end: str = "") -> None:
    """Raise one ValueError that lists all problems, if there are any."""
    if problems:
        raise ValueError(f"{what}: {'; '.join(problems)}. {end}".rstrip())


def check_has_length(values: object, what: str) -> None:
    """Reject what has no length, such as a generator.

    Parameters
    ----------
    values : object
        What was given.
    what : str
        What is expected, for the error.

    Raises
    ------
    TypeError
        If it has no length.
    """
    try:
        len(values)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{what}; got {type(values).__name__}, which has no length. An iterator can be read only once: make it a "
            "list first."
        ) from None


def warn(message: str) -> None:
    """Warn with the place where the user called this package, whatever libraries stand between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
