"""How the values of a column become strings, and strings the fields of a text, in whole Arrow arrays.

`_styles` has the ways of writing numbers and times that are not the default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.events._arrow import Column, combine
from skllm4es.events._kinds import is_list
from skllm4es.events._numbers import UNITS_PER_SECOND

#: Writes each value of a column as a string; nulls and NaN stay null.
WriteValues = Callable[[Column], Column]

#: What stands between the elements of a list, and what makes one of them need quotes.
_ELEMENT_SEPARATOR = "; "
_SPECIAL_IN_ELEMENT = '[;"]|^$'

_FIRST_EXPONENT = 1e10


def format_values(column: Column) -> Column:
    """Write each value of a column, except lists, as a large string; nulls and NaN stay null.

    Numbers get the shortest form that reads back to the same number, decimals all their digits, times ISO 8601 without
    a zero fraction of a second, durations seconds, booleans ``true`` and ``false``.
    """
    types = pa.types
    if types.is_floating(column.type):
        return _format_floats(column)
    if types.is_timestamp(column.type):
        return _format_timestamps(column)
    if types.is_time(column.type) and column.type.unit != "s":
        return _trim_fraction(column.cast(pa.large_string()))
    if types.is_decimal(column.type):  # Arrow writes small ones with exponents.
        return _format_each(column, lambda value: format(value, "f"))
    if types.is_duration(column.type):
        per_second = UNITS_PER_SECOND[column.type.unit]
        return _format_each(column.cast(pa.int64()), lambda units: format_seconds(units, per_second))
    return column.cast(pa.large_string())


def format_lists(lists: pa.ChunkedArray, write_elements: WriteValues) -> pa.ChunkedArray:
    """Write each list of a column as a string, lists of lists from the inside out.

    Elements are joined by ``; `` and quoted if they hold a semicolon or a quote or are empty; a null element is written
    as nothing. A null list stays null; an empty list becomes the empty string.
    """
    elements = pc.list_flatten(lists)
    texts = format_lists(elements, write_elements) if is_list(elements.type) else write_elements(elements)
    quoted = pc.fill_null(quote_fields(combine(texts), _SPECIAL_IN_ELEMENT), "")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
    offsets = pa.concat_arrays([pa.array([0]), combine(pc.cumulative_sum(lengths))])
    joined = pc.binary_join(
        pa.LargeListArray.from_arrays(offsets, quoted), pa.scalar(_ELEMENT_SEPARATOR, pa.large_string())
    )
    return pa.chunked_array([pc.if_else(combine(lists.is_null()), pa.scalar(None, pa.large_string()), joined)])


def needs_no_quotes(type_: pa.DataType) -> bool:
    """Whether no value of a type, written by `format_values`, holds a mark that `quote_fields` looks for."""
    return pa.types.is_primitive(type_) or pa.types.is_decimal(type_)


def quote_fields(column: pa.Array, special: str) -> pa.Array:
    """Quote, as CSV does, the strings in which the regular expression `special` is found."""
    found = pc.match_substring_regex(column, special)
    if not pc.any(found).as_py():
        return column
    escaped = pc.replace_substring(column, '"', '""')
    return pc.if_else(found, join_strings('"', escaped, '"'), column)


def join_strings(*parts: Column | str, separator: str = "") -> pa.ChunkedArray:
    """Join large_string columns and single strings, row by row."""
    typed = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in (*parts, separator)]
    return pc.binary_join_element_wise(*typed)


def format_seconds(units: int, per_second: int) -> str:
    """Write a number of units, of which `per_second` make a second, as seconds without trailing zeros."""
    whole, rest = divmod(abs(units), per_second)
    fraction = f".{rest:0{len(str(per_second)) - 1}d}".rstrip("0") if rest else ""
    return f"{'-' if units < 0 else ''}{whole}{fraction}"


def _format_floats(column: Column) -> Column:
    present = pc.if_else(pc.is_nan(column), None, column)
    texts = present.cast(pa.large_string())
    if not (pc.max(pc.abs(present)).as_py() or 0) >= _FIRST_EXPONENT:
        return texts
    # Whole numbers that Arrow would write with an exponent: codes that became floats because one of them is missing.
    whole = pc.and_(pc.equal(pc.floor(present), present), pc.less(pc.abs(present), 2.0**53))
    return pc.if_else(whole, pc.if_else(whole, present, 0.0).cast(pa.int64()).cast(pa.large_string()), texts)


def _format_timestamps(column: Column) -> Column:
    # Casts write a time in 45 ns, `strftime` in 1,600.
    local = column if column.type.tz is None else pc.local_timestamp(column)
    try:
        return local.cast(pa.timestamp("s")).cast(pa.large_string())
    except pa.ArrowInvalid:  # Some times have a fraction of a second.
        return _trim_fraction(local.cast(pa.large_string()))


def _trim_fraction(texts: Column) -> Column:
    return pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")


def _format_each(column: Column, write: Callable[[Any], str]) -> pa.Array:
    return pa.array([None if value is None else write(value) for value in column.to_pylist()], pa.large_string())
