"""Columns scaled by transformers of scikit-learn: the `scalers` of `EventSerializer`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse
from sklearn.base import clone

from skllm4es.events._numbers import to_floats


def fit_scaler(name: str, scaler: Any, column: pa.ChunkedArray) -> Any:
    """Fit a clone of a scaler on the values of a column that are not missing."""
    numbers = to_floats(column)
    known = numbers[~np.isnan(numbers)].reshape(-1, 1)
    if not len(known):
        raise ValueError(f"scalers[{name!r}]: the field has no values in X to learn from.")
    if isinstance(scaler, type) or not hasattr(scaler, "fit") or not hasattr(scaler, "transform"):
        raise TypeError(f"scalers[{name!r}] must be a scikit-learn transformer; got {scaler!r}.")
    try:
        fitted = clone(scaler).fit(known)
    except ValueError as error:
        raise ValueError(f"scalers[{name!r}]: {error}") from error
    scaled = fitted.transform(known[:1])
    if sparse.issparse(scaled) or np.shape(scaled) != (1, 1):
        got = f"{'a sparse matrix' if sparse.issparse(scaled) else 'an array'} of shape {np.shape(scaled)}"
        raise ValueError(
            f"scalers[{name!r}]: {scaler} must return one dense column, as KBinsDiscretizer(encode='ordinal') does; "
            f"got {got}."
        )
    return fitted


def scale(scaler: Any, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Scale the values of a column that are not missing."""
    numbers = to_floats(column)
    missing = np.isnan(numbers)
    if not missing.all():
        numbers[~missing] = _transform(scaler, numbers[~missing].reshape(-1, 1))[:, 0]
    return pa.chunked_array([pa.array(numbers, pa.float64(), mask=missing)])


def _transform(scaler: Any, numbers: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    return np.asarray(scaler.transform(numbers))
