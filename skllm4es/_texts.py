"""Texts between the steps: how the transformers write dataframes of texts, and read texts from any container."""

from __future__ import annotations

import pickle  # only what this process wrote  # nosec B403
from collections.abc import Mapping, Set
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skllm4es._compat import output_library, set_output_library
from skllm4es._messages import check_has_length

#: The column of raw texts, which are embedded; all other columns hold texts to train on.
TEXT = "text"


class TextTransformerMixin(TransformerMixin):
    """Transformer whose output is a dataframe of texts.

    scikit-learn's own wrapper names the columns of the output by `get_feature_names_out`, but `TextEnricher` returns
    more columns from `fit_transform` than from `transform`. So the output is built here, with the same configuration.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(auto_wrap_output_keys=None, **kwargs)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Choose the library of the output dataframe.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            "default" is polars for input of polars, otherwise pandas; None leaves the choice as it is.

        Returns
        -------
        self : estimator
            This transformer.
        """
        if transform is not None:
            set_output_library(self, transform)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Return the names of the columns of `transform`.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of shape (1,), dtype object
            ``["text"]``.
        """
        check_is_fitted(self)
        return np.array([TEXT], dtype=object)

    def _frame(self, columns: Mapping[str, Any], *, like: Any) -> Any:
        """Build the output from columns of texts, with the library and the index of the input `like`."""
        arrays = {name: _as_chunks(texts) for name, texts in columns.items()}
        library = output_library(self)
        if library == "default":
            library = "polars" if type(like).__module__.partition(".")[0] == "polars" else "pandas"
        if library == "polars":
            import polars as pl

            return pl.DataFrame({name: pl.from_arrow(array) for name, array in arrays.items()})
        index = _unshared(like.index) if isinstance(like, pd.DataFrame | pd.Series) else None
        data = {name: pd.arrays.ArrowExtensionArray(array) for name, array in arrays.items()}
        for dtype in (column.dtype for column in data.values()):
            assert isinstance(dtype, pd.ArrowDtype)
            dtype.pyarrow_dtype = _unshared(dtype.pyarrow_dtype)  # An index of strings may have the same one.
        return pd.DataFrame(data, index=index, copy=False)  # A copy would have types of its own in pandas 2.


def _unshared(value: Any) -> Any:
    """Return a value as it comes from a cache, which shares no Python object with others, such as the index of `y`.

    joblib hashes a shared object in another way than equal ones. Without this, a step of ``Pipeline(memory=...)`` would
    not recognise its input once that comes from the cache, and would train again.
    """
    return pickle.loads(pickle.dumps(value))  # From this process.  # nosec B301


def _as_chunks(texts: Any) -> pa.ChunkedArray:
    return texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([pa.array(texts, pa.large_string())])


def read_texts(X: Any, *, caller: str) -> dict[str, list[str]]:
    """Read columns of texts from a dataframe, a table, an array of one or two dimensions, a series or a list.

    What is neither an array nor has a length is rejected: an iterator can be read only once, and then `transform` would
    find nothing of what `fit` read. A single column is called ``text``, whatever its name; unnamed columns are called
    ``text``, ``1``, ``2``, ... Error messages begin with `caller`.
    """
    if isinstance(X, str | bytes):
        raise TypeError(f"{caller}: iterable over texts expected, string object received. Wrap it in a list: [text].")
    named = _columns(X, caller)
    columns = {TEXT: next(iter(named.values()))} if len(named) == 1 else named
    if TEXT not in columns:
        raise ValueError(
            f"{caller}: X has the columns {list(columns)}, of which one must be {TEXT!r}, the texts to embed; "
            "the others are texts to train on. Pass a single column, or rename one."
        )
    for name, texts in named.items():
        _check_strings(texts, name, caller)
    return columns


def cells(column: Any) -> list[Any]:
    """Return the cells of a series or an array of any library, or of a list, in their order."""
    for method in ("to_list", "to_pylist", "tolist"):
        if hasattr(column, method):
            values: list[Any] = getattr(column, method)()
            return values
    return list(column)


def _check_strings(texts: list[Any], name: str, caller: str) -> None:
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"{caller}: texts must be strings, but row {position} of column {name!r} is "
                f"{type(text).__name__} ({text!r:.60}). Events are turned into texts by EventSerializer; "
                "fill in or drop missing texts first."
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{caller}: character {error.start} of row {position} of column {name!r} is {text[error.start]!r}, "
                "half of a surrogate pair, which is not a character by itself. Read the data with the right encoding."
            ) from error


def _columns(X: Any, caller: str) -> dict[str, list[Any]]:
    if type(X).__name__ == "LazyFrame":
        raise TypeError(f"{caller}: a LazyFrame has no rows until it is collected. Pass X.collect().")
    if isinstance(X, np.ndarray):
        return _columns_of_array(X, caller)
    check_has_length(X, f"{caller}: iterable over texts expected")
    X = _from_arrow(X)
    if isinstance(X, pa.Table):
        names, columns = X.column_names, X.columns
    elif hasattr(X, "columns"):
        names, columns = [str(name) for name in X.columns], [X[name] for name in X.columns]
    elif hasattr(X, "to_list") or hasattr(X, "to_pylist"):
        return {TEXT: cells(X)}
    else:
        return _columns_of_array(_as_array(X, caller), caller)
    if len(set(names)) < len(names):
        raise ValueError(f"{caller}: X has columns of the same name: {names}.")
    return {name: cells(column) for name, column in zip(names, columns, strict=True)}


def _columns_of_array(array: np.ndarray[Any, Any], caller: str) -> dict[str, list[Any]]:
    if array.ndim == 1:
        return {TEXT: array.tolist()}
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"{caller}: texts must be of shape (n,) or (n, n_columns); got {array.shape}.")
    return dict(zip([TEXT, *map(str, range(1, array.shape[1]))], array.T.tolist(), strict=True))


def _from_arrow(X: Any) -> Any:
    """Read tables and arrays of Arrow, and of libraries that pass theirs on as these; return others as they are."""
    of_pandas = isinstance(X, pd.DataFrame | pd.Series | pd.Index)
    if of_pandas or type(X).__module__.partition(".")[0] == "polars":
        return X
    is_array = hasattr(X, "__arrow_c_array__")
    if not is_array and not hasattr(X, "__arrow_c_stream__"):
        return X
    if hasattr(X, "columns"):
        return pa.table(X)
    return pa.array(X) if is_array else pa.chunked_array(X)


def _as_array(X: Any, caller: str) -> np.ndarray[Any, Any]:
    if isinstance(X, Mapping | Set):
        raise TypeError(f"{caller}: iterable over texts expected; got {type(X).__name__}, which is not a sequence.")
    rows = list(X)
    if len(rows) != len(X):
        raise ValueError(
            f"{caller}: {type(X).__name__} has the length {len(X)}, but gave {len(rows)} texts: it can be read only "
            "once. Pass a list."
        )
    if any(isinstance(row, list | tuple | np.ndarray) for row in rows):
        return np.array(rows, dtype=object)
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array
