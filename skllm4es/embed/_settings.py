"""Settings that are passed on to other libraries: their names, and their numbers, which must be those of Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from skllm4es._messages import did_you_mean


def plain(value: Any) -> Any:
    """Return a setting with plain numbers, strings and lists in place of those of numpy, which searches set."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(name): plain(setting) for name, setting in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def check_names(parameter: str, settings: Mapping[str, Any], known: set[str], owner: str) -> None:
    """Raise a ValueError if a parameter holds settings that their owner does not have."""
    unknown = [name for name in settings if name not in known]
    if unknown:
        hint = did_you_mean(unknown, known) or " See its documentation for their names."
        raise ValueError(f"{parameter} names {unknown}, which are not settings of {owner}.{hint}")
