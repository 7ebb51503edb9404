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

from skllm4es.events._arrow import Column, combine
from skllm4es.events._kinds import is_list
from skllm4es.events._numbers import UNITS_PER_SECOND

#: Writes each value of a column as a string; nulls and NaN stay null.
WriteValues = Callable[[Column], Column]

#: What stands between the elements of a list, and what makes one of them need quotes.
ELEMENT_SEPARATOR = "; "
_SPECIAL_IN_ELEMENT = '[;"]|^$'

_FIRST_EXPONENT = 1e10


def format_values(column: Column) -> Column:
    """Write each value of a column as a string; nulls and NaN stay null.

    Parameters
    ----------
    column : pyarrow.ChunkedArray or pyarrow.Array
        Values of any kind that `value_kind` names, but for lists.

    Returns
    -------
    pyarrow.ChunkedArray or pyarrow.Array, as long as `column`, type large_string
        Numbers in their shortest form that reads back to the same number, decimals with all their digits, times in
        ISO 8601 without a zero fraction of a second, durations as seconds, booleans as ``true`` and ``false``.
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
        return _format_each(column.cast(pa.int64()), lambda steps: format_seconds(steps, per_second))
    return column.cast(pa.large_string())


def format_lists(lists: pa.ChunkedArray, write_elements: WriteValues) -> pa.ChunkedArray:
    """Write each list of a column as a string, lists of lists from the inside out.

    Parameters
    ----------
    lists : pyarrow.ChunkedArray
        The lists.
    write_elements : callable
        Writes their innermost elements, end to end.

    Returns
    -------
    pyarrow.ChunkedArray, as long as `lists`, type large_string
        The elements with ``; `` between them, quoted where they hold a semicolon or a quote or are empty; nothing is
        written for a null among them. Null for a null; the empty string for an empty list.
    """
    elements = pc.list_flatten(lists)
    texts = format_lists(elements, write_elements) if is_list(elements.type) else write_elements(elements)
    quoted = pc.fill_null(quote_fields(combine(texts), _SPECIAL_IN_ELEMENT), "")
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
    return pa.array([None if code is None else table.get(code) for code in codes.to_pylist()], pa.large_string())


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


def join_strings(*parts: Column | str, separator: str = "") -> pa.ChunkedArray:
    """Join large_string columns and single strings, row by row."""
    typed = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in (*parts, separator)]
    return pc.binary_join_element_wise(*typed)


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
    except pa.ArrowInvalid:  # Some time has a fraction of a second.
        return _trim_fraction(local.cast(pa.large_string()))


def _trim_fraction(texts: Column) -> Column:
    return pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")


def _format_each(column: Column, write: Callable[[Any], str]) -> pa.Array:
    return pa.array([None if value is None else write(value) for value in column.to_pylist()], pa.large_string())


def format_seconds(steps: int, per_second: int) -> str:
    """Write a number of steps, so many of which make a second, as seconds without needless digits."""
    whole, rest = divmod(abs(steps), per_second)
    fraction = f".{rest:0{len(str(per_second)) - 1}d}".rstrip("0") if rest else ""
    return f"{'-' if steps < 0 else ''}{whole}{fraction}"
