"""Errors and warnings: what several modules say in the same way."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(unknown: Iterable[object], known: Iterable[str]) -> str:
    """Ask for the known names that are nearest to unknown ones.

    Parameters
    ----------
    unknown : iterable of object
        Names that were given.
    known : iterable of str
        Names that there are.

    Returns
    -------
    str
        A question with a space before it, or nothing where no name is near.

    Examples
    --------
    >>> from skllm4es._messages import did_you_mean
    >>> did_you_mean(["jason", "x"], ["html", "json"])
    " Did you mean ['json']?"
    """
    names = list(known)
    near = [match for name in unknown for match in get_close_matches(str(name), names, n=1)]
    return f" Did you mean {near}?" if near else ""


def raise_if(problems: list[str], what: str, end: str = "") -> None:
    """Raise a ValueError if there are problems, one that tells all of them."""
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
    """Warn the caller of this package, who may have called it through scikit-learn.

    Parameters
    ----------
    message : str
        What is wrong.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("skllm4es", "sklearn", "joblib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
