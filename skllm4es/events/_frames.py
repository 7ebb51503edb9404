"""Tables of pandas, polars and Arrow: their names, rows and columns, converted to Arrow.

An error names every column that Arrow cannot hold, and the first row whose value does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from skllm4es.events._arrow import Column, decode, to_plain
from skllm4es.events._objects import UnfitError, convert_objects

#: What to do with values that Arrow cannot hold.
REMEDY = (
    "Convert them to numbers, times or strings, all of one type, for example with astype(str), or cast(pl.String) in "
    "polars."
)


def is_polars(frame: Any) -> bool:
    """Whether an object is a dataframe of polars."""
    # By name, so that polars is not imported unless the caller uses it.
    return type(frame).__module__.partition(".")[0] == "polars" and type(frame).__name__ == "DataFrame"


def hint_for(table: Any) -> str:
    """Return what a message adds on a table that is nearly a dataframe."""
    hints = {
        "LazyFrame": " A LazyFrame has no rows until it is collected: pass it.collect().",
        "Series": " Pass a single column as a dataframe: it.to_frame().",
    }
    return hints.get(type(table).__name__, "")


def index_with_data(frame: Any, *, times: bool = True) -> str:
    """Say which index of a pandas dataframe holds data that no column has; empty if it holds none.

    `times` says whether an index of times without a name is data.
    """
    if not isinstance(frame, pd.DataFrame):
        return ""
    columns = set(map(str, frame.columns))
    if names := [repr(name) for name in frame.index.names if name is not None and str(name) not in columns]:
        return f" {', '.join(names)}"
    if frame.index.nlevels > 1 and None in frame.index.names:
        return " of several levels"
    return " of times" if times and isinstance(frame.index, pd.DatetimeIndex) and frame.index.name is None else ""


def is_object(column: Any) -> bool:
    """Whether a column of pandas or polars holds Python objects."""
    return not isinstance(column, pa.ChunkedArray) and str(column.dtype).lower() == "object"


def column_names(frame: Any) -> list[str]:
    """Return the names of a table's columns."""
    if isinstance(frame, pa.Table):
        return frame.column_names
    if not isinstance(frame, pd.DataFrame) and not is_polars(frame):
        raise TypeError(
            "events must be a long table with one row per event: a pandas or polars dataframe or a pyarrow table; "
            f"got {type(frame).__name__}.{hint_for(frame)}"
        )
    return [str(name) for name in frame.columns]


def repeated(names: Sequence[str]) -> list[str]:
    """Return the names that occur more than once."""
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def row_label(X: Any, position: int) -> Any:
    """Return what messages call a row: its index label in pandas, otherwise its position."""
    if not isinstance(X, pd.DataFrame | pd.Series):
        return int(position)
    label = X.index[[position]].tolist()[0]
    try:
        repr(label)
    except Exception:  # Pandas cannot write zoned times after the year 9999.
        return int(position)
    return label


def to_arrow(frame: Any) -> pa.Table:
    """Convert a table of any library to Arrow."""
    names = column_names(frame)
    if isinstance(frame, pd.DataFrame):
        return arrow_table(names, [frame.iloc[:, position] for position in range(frame.shape[1])])
    return arrow_table(names, frame.columns if isinstance(frame, pa.Table) else frame.get_columns())


def arrow_table(names: list[str], columns: list[Any]) -> pa.Table:
    """Build an Arrow table from columns of any library; the error names all that Arrow cannot hold."""
    arrays, problems = [], []
    for name, column in zip(names, columns, strict=True):
        try:
            name.encode()  # A lone surrogate is no character, in names as in values.
            arrays.append(_column_to_arrow(column))
            arrays[-1].validate()  # For nested arrays, pyarrow sometimes builds broken lists.
        except MemoryError:
            raise
        except UnfitError as error:
            problems += [
                problem.describe(name, str(column.dtype).lower(), partial(row_label, column))
                for problem in error.problems
            ]
        except Exception as error:
            type_ = column.type if isinstance(column, pa.ChunkedArray) else column.dtype
            problems.append(f"{name!r} ({type_}): {error}")
    if problems:
        raise TypeError(f"Events are kept in Arrow, which cannot hold {'; '.join(problems)}. {REMEDY}")
    return pa.Table.from_arrays(arrays, names=names)


def _column_to_arrow(column: Any) -> Column:
    if isinstance(column, pd.Series) and isinstance(column.dtype, pd.SparseDtype):
        column = pd.Series(np.asarray(column))
    if is_object(column):  # Polars would export the addresses of its objects.
        return to_plain(convert_objects(column.to_list()))
    if not isinstance(column, pd.Series):
        return to_plain(column if isinstance(column, pa.ChunkedArray) else _from_polars(column))
    if isinstance(column.dtype, pd.CategoricalDtype) and is_object(column.cat.categories):
        return to_plain(_categories_to_arrow(column))
    array = pa.array(column, from_pandas=True)
    type_ = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    return _as_texts(column) if isinstance(type_, pa.BaseExtensionType) else to_plain(array)


def _categories_to_arrow(column: pd.Series) -> pa.DictionaryArray:
    """Convert a categorical whose categories are objects."""
    codes = column.cat.codes.to_numpy()
    try:
        categories = convert_objects(column.cat.categories.to_list())
    except UnfitError as error:
        used = column.cat.remove_unused_categories()
        if len(used.cat.categories) < len(column.cat.categories):
            return _categories_to_arrow(used)
        known = np.flatnonzero(codes >= 0)
        raise error.moved(known[np.unique(codes[known], return_index=True)[1]]) from error
    if pa.types.is_dictionary(categories.type):
        categories = decode(categories).combine_chunks()
    indices = pa.array(codes, mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, categories, ordered=bool(column.cat.ordered))


def _from_polars(column: Any) -> pa.Array:
    import polars as pl

    try:
        return column.to_arrow()
    except pl.exceptions.PanicException as error:
        raise ValueError(f"polars cannot export it ({error}), usually because the name of a field holds NUL") from error


def _as_texts(column: pd.Series) -> pa.DictionaryArray:
    """Write values of types that only pandas has, such as intervals and periods, as texts that keep their order."""
    values = pd.Categorical(column)
    if not values.ordered:
        values = values.reorder_categories(values.categories.sort_values())
    texts = pa.array([str(value) for value in values.categories], pa.large_string())
    return pa.DictionaryArray.from_arrays(pa.array(values.codes, mask=values.codes < 0), texts, ordered=True)
