"""The same events in each kind of dataframe that `EventSerializer` reads.

A kind is a function of a pyarrow array of lists of structs and the users' index. It returns the dataframe and the
argument that says where its events are.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest


def _pandas_arrow(lists, index):
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)}, index=index), "events"


def _polars(lists, index):
    pl = pytest.importorskip("polars", reason="needs polars")
    return pl.DataFrame({"user": pl.Series(index), "events": pl.from_arrow(lists)}), "events"


def _list_columns(lists):
    """Split lists of structs into one array of lists per field."""
    flat = pc.list_flatten(lists).flatten()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32(), mask=_nulls_as_offsets(lists))
    names = [field.name for field in lists.type.value_type]
    return {name: pa.ListArray.from_arrays(offsets, values) for name, values in zip(names, flat, strict=True)}


def _nulls_as_offsets(lists):
    return np.append(lists.is_null().to_numpy(zero_copy_only=False), False)


def _pandas_list_columns(lists, index):
    columns = _list_columns(lists)
    data = {name: pd.arrays.ArrowExtensionArray(column) for name, column in columns.items()}
    return pd.DataFrame(data, index=index), list(columns)


def _polars_list_columns(lists, index):
    pl = pytest.importorskip("polars", reason="needs polars")
    columns = _list_columns(lists)
    data = {name: pl.from_arrow(column) for name, column in columns.items()}
    return pl.DataFrame({"a user": pl.Series(index), **data}), list(columns)


def _nested_pandas(lists, index):
    nested_pandas = pytest.importorskip("nested_pandas", reason="needs nested-pandas")
    X, events = _pandas_arrow(lists, index)
    return nested_pandas.NestedFrame(X.astype({events: nested_pandas.NestedDtype(lists.type)})), events


def _object_dicts(lists, index):
    return pd.DataFrame({"events": pd.Series(lists.to_pylist(), dtype=object, index=index)}), "events"


def _object_frames(lists, index):
    from skllm4es.events._nesting import _to_pandas

    def frame(events):
        structs = events.values
        return _to_pandas(pa.table(dict(zip([f.name for f in structs.type], structs.flatten(), strict=True))))

    cells = pd.Series([frame(events) if events.is_valid else None for events in lists], dtype=object, index=index)
    return pd.DataFrame({"events": cells}), "events"


EVENT_KINDS = {
    "pandas-arrow": _pandas_arrow,
    "polars": _polars,
    "pandas-list-columns": _pandas_list_columns,
    "polars-list-columns": _polars_list_columns,
    "nested-pandas": _nested_pandas,
    "object-dicts": _object_dicts,
    "object-frames": _object_frames,
}
