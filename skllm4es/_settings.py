"""Settings that are passed on to other libraries, which often take numbers of Python only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a setting with numbers, strings and lists of Python in place of numpy's, as a search sets them.

    Parameters
    ----------
    value : object
        The setting, which may be a mapping, list or tuple of others.

    Returns
    -------
    object
        The same in plain Python; what is not of numpy stays as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from skllm4es._settings import plain
    >>> plain({"hidden_size": np.int64(8), "rope_scaling": {"factor": np.float32(2)}})
    {'hidden_size': 8, 'rope_scaling': {'factor': 2.0}}
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(name): plain(setting) for name, setting in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value
