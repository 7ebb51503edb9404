"""How the values of a column become strings, and strings the fields of a text, in whole Arrow arrays.

`_styles` has the ways of writing numbers and times that are not the default.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.events._arrow import Column, combine
from skllm4es.events._kinds import is_list
from skllm4es.events._numbers import UNITS_PER_SECOND, decimals_to_floats

#: Writes each value of a column as a string; nulls and NaN stay null.
WriteValues = Callable[[Column], Column]

#: What stands between the elements of a list, and what makes one of them need quotes.
_ELEMENT_SEPARATOR = "; "
_SPECIAL_IN_ELEMENT = '[;"]|^$'

# Numbers from 1e-6 to 1e20, beyond which Arrow holds no integers, are written without an exponent.
_ARROWS_FIRST_EXPONENT = 1e10
_FIRST_EXPONENT = 20
_LAST_NEGATIVE_EXPONENT = -7

# Decimals of so many digits are floats' shortest forms.
_DIGITS_OF_FLOATS = 15


def format_values(column: Column) -> Column:
    """Write each value of a column, except lists, as a large string; nulls and NaN stay null.

    Equal numbers get the same text, whatever type holds them and whatever else the column holds. Times are written as
    ISO 8601 without a zero fraction of a second, durations in seconds, booleans as ``true`` and ``false``.
    """
    types = pa.types
    if types.is_floating(column.type):
        return _format_floats(column)
    if types.is_timestamp(column.type):
        return _format_timestamps(column)
    if types.is_time(column.type) and column.type.unit != "s":
        return _trim_fraction(column.cast(pa.large_string()))
    if types.is_decimal(column.type):
        return _format_decimals(column)
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


def _format_floats(column: Column) -> pa.Array:
    """Write floats of any width: whole numbers as integers are written, others in their shortest form.

    A number that single precision holds gets the digits that single precision needs, in a column of doubles, too: 12.99
    is otherwise written as 12.989999771118164 once it has been widened. Sixteenths keep all of their few digits.
    """
    numbers = pc.fill_null(combine(column).cast(pa.float64()), np.nan).to_numpy() + 0.0  # No negative zero.
    with np.errstate(over="ignore"):
        singles = numbers.astype(np.float32)
    short = singles == numbers
    short[short] = ~_has_few_digits(numbers[short])
    long = ~short & (np.abs(numbers) >= _ARROWS_FIRST_EXPONENT) & (np.abs(numbers) < 10.0**_FIRST_EXPONENT)
    parts = [_cast(numbers, ~(short | long | np.isnan(numbers)))]
    if short.any():
        parts.append(_cast(singles, short))
    if long.any():  # Arrow would write an exponent.
        whole = long & (np.floor(numbers) == numbers) & (np.abs(numbers) < 2.0**63)
        parts.append(_cast(np.where(whole, numbers, 0).astype(np.int64), whole))
        rest = [_plain(number) if is_rest else None for number, is_rest in zip(numbers, long & ~whole, strict=True)]
        parts.append(pa.array(rest, pa.large_string()))
    return pc.coalesce(*parts) if len(parts) > 1 else parts[0]


def _has_few_digits(singles: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    sixteenths = singles * 16
    return (np.rint(sixteenths) == sixteenths) & (np.abs(singles) < 10.0**_FIRST_EXPONENT)


def _cast(values: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=~where).cast(pa.large_string())


def _plain(number: float) -> str:
    """Write a number without an exponent, a whole one exactly."""
    return str(int(number)) if number.is_integer() else np.format_float_positional(number, trim="-")


def _format_decimals(column: Column) -> Column:
    """Write decimals as the nearest floats are written, unless they have more digits than a float can tell apart."""
    floats = decimals_to_floats(column)
    texts = _format_floats(floats)
    long = pc.greater_equal(pc.abs(floats), 10.0 ** (_DIGITS_OF_FLOATS - column.type.scale))
    if not pc.any(long).as_py():
        return texts
    digits = _format_each(pc.if_else(long, column, None), _write_digits)
    return pc.coalesce(digits, texts)


def _write_digits(value: Decimal) -> str | None:
    """Write a decimal, in the form of floats, with all its digits; return None if a float has just these digits."""
    number, exponent = float(value), value.adjusted()
    whole = exponent < _FIRST_EXPONENT and value == int(value)
    if not whole and value in (number, Decimal(repr(number))):
        return None
    if _LAST_NEGATIVE_EXPONENT < exponent < _FIRST_EXPONENT:
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    sign, digits, _ = value.as_tuple()
    others = "".join(map(str, digits[1:])).rstrip("0")
    return f"{'-' * sign}{digits[0]}{'.' * bool(others)}{others}e{exponent:+d}"


def _format_timestamps(column: Column) -> Column:
    # Casts write a time in 45 ns, `strftime` in 1,600.
    local = column if column.type.tz is None else pc.local_timestamp(column)
    try:
        return local.cast(pa.timestamp("s")).cast(pa.large_string())
    except pa.ArrowInvalid:  # Some times have a fraction of a second.
        return _trim_fraction(local.cast(pa.large_string()))


def _trim_fraction(texts: Column) -> Column:
    return pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")


def _format_each(column: Column, write: Callable[[Any], str | None]) -> pa.Array:
    return pa.array([None if value is None else write(value) for value in column.to_pylist()], pa.large_string())
