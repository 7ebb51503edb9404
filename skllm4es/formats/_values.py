"""How the values of a column of events become the fields of a text.

Works on whole Arrow arrays. `_fields` decides what is passed here: a column block by block, or the distinct values of
one whose values repeat, each once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.formats._serialised import SPECIAL_IN_FIELD


def format_values(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Write each value of a column as a string; nulls and NaN stay null.

    Parameters
    ----------
    column : pyarrow.ChunkedArray or pyarrow.Array
        Values of any scalar type; a dictionary's values, not its codes.

    Returns
    -------
    pyarrow.ChunkedArray or pyarrow.Array, as long as `column`, type large_string
        Numbers in their shortest form that reads back to the same number, times in ISO 8601 without a zero
        fraction of a second, durations as seconds, booleans as ``true`` and ``false``.
    """
    if pa.types.is_floating(column.type):
        return _format_floats(column)
    if pa.types.is_timestamp(column.type):
        return _format_timestamps(column)
    if pa.types.is_duration(column.type):
        # In seconds: the unit of the type depends on the version of pandas.
        nanoseconds = column.cast(pa.duration("ns")).cast(pa.int64())
        return format_values(pc.divide(nanoseconds.cast(pa.float64()), 1e9))
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise TypeError(f"values of type {column.type} cannot be written as text; convert the column to strings first")
    return column.cast(pa.large_string())


def label_values(codes: pa.Array, labels: Mapping[Any, str] | pd.Series) -> pa.Array:
    """Replace codes by their descriptions; a code that has none becomes null, as a missing one does.

    Parameters
    ----------
    codes : pyarrow.Array
        The codes, each once: they are looked up one by one.
    labels : mapping or pandas.Series from code to str
        The descriptions.

    Returns
    -------
    pyarrow.Array of type large_string
        The descriptions.
    """
    # A Series looks up in 5 us, a dict in 50 ns.
    table = dict(zip(labels.index, labels.to_list(), strict=True)) if isinstance(labels, pd.Series) else labels
    return pa.array([table.get(code) for code in codes.to_pylist()], pa.large_string())


def needs_no_quotes(type_: pa.DataType) -> bool:
    """Tell whether no value of a type, once written, holds a mark that `quote_fields` looks for."""
    return pa.types.is_primitive(type_) or pa.types.is_decimal(type_)


def quote_fields(column: pa.Array, *, alone: bool = False) -> pa.Array:
    """Quote, as CSV does, the strings that hold a separator's mark, a quote or a line break.

    The empty string is quoted where it is `alone` in its line, which would be empty.
    """
    special = pc.match_substring_regex(column, f"^$|{SPECIAL_IN_FIELD}" if alone else SPECIAL_IN_FIELD)
    if not pc.any(special).as_py():
        return column
    escaped = pc.replace_substring(column, '"', '""')
    return pc.if_else(special, join_strings('"', escaped, '"'), column)


def join_strings(*parts: pa.ChunkedArray | pa.Array | str, separator: str = "") -> pa.ChunkedArray:
    """Join large_string columns and single strings, row by row."""
    typed = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in (*parts, separator)]
    return pc.binary_join_element_wise(*typed)


def _format_floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    present = pc.if_else(pc.is_nan(column), None, column)
    return present.cast(pa.large_string())


def _format_timestamps(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # Casts write a time in 45 ns, `strftime` in 1,600.
    local = column if column.type.tz is None else pc.local_timestamp(column)
    try:
        return local.cast(pa.timestamp("s")).cast(pa.large_string())
    except pa.ArrowInvalid:  # Some time has a fraction of a second.
        return pc.utf8_rtrim(pc.utf8_rtrim(local.cast(pa.large_string()), "0"), ".")
