"""Settings that are passed on to other libraries, which often take numbers of Python only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a setting with plain numbers, strings and lists in place of those of numpy, which searches set."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(name): plain(setting) for name, setting in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value
