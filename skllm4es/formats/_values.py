"""How the values of a column of events become the fields of a text.

Works on whole Arrow arrays. `_fields` decides what is passed here: a column block by block, or the distinct values of
one whose values repeat, each once. `_styles` has the ways of writing that are not the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

#: Writes each value of a column as a string; nulls and NaN stay null.
WriteValues = Callable[[pa.ChunkedArray | pa.Array], pa.ChunkedArray | pa.Array]

#: What stands between the elements of a list, and what makes one of them need quotes.
ELEMENT_SEPARATOR = "; "
_SPECIAL_IN_ELEMENT = '[;"]|^$'


def value_kind(type_: pa.DataType) -> str:
    """Name what the values of a type are to a reader; types of one kind are written alike.

    Parameters
    ----------
    type_ : pyarrow.DataType
        The type; a dictionary is of the kind of its values.

    Returns
    -------
    str
        "numbers", "texts", "booleans", "dates", "times" (with their zone), "times of day", "durations", "lists of ...",
        "nothing" where all values are missing, and for what cannot be written the type itself.
    """
    types = pa.types
    if types.is_dictionary(type_):
        return value_kind(type_.value_type)
    if types.is_timestamp(type_):
        return "times" if type_.tz is None else f"times of {type_.tz}"
    if is_list(type_):
        return f"lists of {value_kind(type_.value_type)}"
    kinds: dict[str, Callable[[pa.DataType], bool]] = {
        "booleans": types.is_boolean,
        "numbers": lambda t: types.is_integer(t) or types.is_floating(t) or types.is_decimal(t),
        "texts": is_string,
        "dates": types.is_date,
        "times of day": types.is_time,
        "durations": types.is_duration,
        "nothing": types.is_null,
    }
    return next((kind for kind, check in kinds.items() if check(type_)), str(type_))


def is_time(kind: str) -> bool:
    """Tell whether values of a kind are points in time."""
    return kind == "dates" or (kind.startswith("times") and kind != "times of day")


def is_string(type_: pa.DataType) -> bool:
    """Tell whether a type is one of Arrow's three of strings."""
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def is_list(type_: pa.DataType) -> bool:
    """Tell whether a type is one of Arrow's lists."""
    # By name, so that list views are recognised by the versions of pyarrow that have them.
    return str(type_).startswith(("list", "large_list", "fixed_size_list"))


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
        return format_values(duration_seconds(column))
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        raise TypeError(f"values of type {column.type} cannot be written as text; convert the column to strings first")
    return column.cast(pa.large_string())


def duration_seconds(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Give durations in seconds: the unit of their type depends on the version of pandas."""
    nanoseconds = column.cast(pa.duration("ns")).cast(pa.int64())
    return pc.divide(nanoseconds.cast(pa.float64()), 1e9)


def join_elements(lists: pa.ChunkedArray, elements: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """Join the written elements of lists, one string a list.

    Parameters
    ----------
    lists : pyarrow.ChunkedArray
        The lists.
    elements : pyarrow.ChunkedArray or pyarrow.Array of large_string
        Their elements end to end, as strings.

    Returns
    -------
    pyarrow.ChunkedArray, as long as `lists`, type large_string
        The elements with ``; `` between them, quoted where they hold a semicolon or a quote or are empty; nothing
        is written for a null among them. Null for a null; the empty string for an empty list.
    """
    quoted = pc.fill_null(quote_fields(combine(elements), _SPECIAL_IN_ELEMENT), "")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
    offsets = pa.concat_arrays([pa.array([0]), combine(pc.cumulative_sum(lengths))])
    joined = pc.binary_join(
        pa.LargeListArray.from_arrays(offsets, quoted), pa.scalar(ELEMENT_SEPARATOR, pa.large_string())
    )
    return pa.chunked_array([pc.if_else(combine(lists.is_null()), pa.scalar(None, pa.large_string()), joined)])


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
    """Tell whether no value of a type, written by `format_values`, holds a mark that `quote_fields` looks for."""
    return pa.types.is_primitive(type_) or pa.types.is_decimal(type_)


def quote_fields(column: pa.Array, special: str) -> pa.Array:
    """Quote, as CSV does, the strings in which a regular expression finds a mark."""
    found = pc.match_substring_regex(column, special)
    if not pc.any(found).as_py():
        return column
    escaped = pc.replace_substring(column, '"', '""')
    return pc.if_else(found, join_strings('"', escaped, '"'), column)


def join_strings(*parts: pa.ChunkedArray | pa.Array | str, separator: str = "") -> pa.ChunkedArray:
    """Join large_string columns and single strings, row by row."""
    typed = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in (*parts, separator)]
    return pc.binary_join_element_wise(*typed)


def combine(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Give a column as one array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


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
