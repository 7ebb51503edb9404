"""Other ways of writing numbers and times: the `formats` of `EventSerializer`.

A style is named by a string, in words or in Python's format languages. It says whether another column is derived first
(a number of days, the distance from the previous event) and how values are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from skllm4es.events._arrow import Column, combine
from skllm4es.events._kinds import is_time, value_kind
from skllm4es.events._numbers import UNITS_PER_SECOND, seconds_of
from skllm4es.serialize._values import WriteValues, format_values

Derive = Callable[[pa.ChunkedArray, npt.NDArray[np.int64]], pa.ChunkedArray]

_PREVIOUS = "previous event"
_COUNT = re.compile(r"(days|hours|minutes|seconds) since (previous event|\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?)?)")
_DIGITS = re.compile(r"([1-9]|1[0-5]) significant digits?")
_DIRECTIVE = re.compile(r"%(.?)")
_DIRECTIVES = set("aAbBcCdDeFgGhHIjmMnprRStTuUVwWxXyY%")
_ANY_WHOLE = 1_234_567  # Long enough for formats to differ between integers and floats.
_MAX_WHOLE = 10**20  # More than Arrow's integers.
_SECONDS = {"days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}

_FOR_NUMBERS = "a Python format such as '.2f', 'N significant digits' with N from 1 to 15"
_FOR_TIMES = (
    "a strftime pattern such as '%a %H', 'UNIT since 2020-01-01' with any date or time, "
    "'UNIT since previous event', where UNIT is days, hours, minutes or seconds; %z and %Z need zoned times"
)


@dataclass(frozen=True)
class Style:
    """How the values of a column are written.

    `derive` computes the column to write from the events' column and the users' offsets; `counts` marks times that are
    written as whole numbers that grow with time.
    """

    write: WriteValues
    derive: Derive | None = None
    counts: bool = False


def read_style(spec: object, type_: pa.DataType) -> Style:
    """Parse the format of a column, as the user wrote it; raise if it is not one for values of this type."""
    kind = value_kind(type_)
    style: Style | None = None
    known = ""
    if isinstance(spec, str):
        if kind in ("numbers", "durations"):
            style, known = _number_style(spec, type_), f"{_FOR_NUMBERS}, or 'since {_PREVIOUS}'"
        elif is_time(kind):
            style, known = _time_style(spec, zoned=kind.startswith("times of ")), _FOR_TIMES
    if style is None:
        reason = f"use {known}" if known else f"{kind} have no formats; labels can replace them"
        raise ValueError(f"{spec!r} is not a format for {kind} ({type_}): {reason}")
    return style


def _number_style(spec: str, type_: pa.DataType) -> Style | None:
    if spec == f"since {_PREVIOUS}":
        return Style(format_values, _since_previous)
    if digits := _DIGITS.fullmatch(spec):
        return Style(partial(_write_each, write=partial(_round_to_digits, n_digits=int(digits[1]))))
    # Numbers are written as they are, not as their type is: a whole float or decimal as an integer, if the format can.
    for_whole, for_others = _accepts(spec, 1), _accepts(spec, 1.5)
    if not spec or spec.endswith("c") or not (for_others or (for_whole and pa.types.is_integer(type_))):
        return None
    alike = for_others and (not for_whole or format(_ANY_WHOLE, spec) == format(float(_ANY_WHOLE), spec))
    if alike and not pa.types.is_decimal(type_):
        return Style(partial(_write_each, write=lambda value: format(value + 0.0, spec)))  # No negative zero.
    return Style(partial(_write_each, write=partial(_write_formatted, spec=spec, whole=int if for_whole else float)))


def _accepts(spec: str, example: float) -> bool:
    try:
        format(example, spec)
    except ValueError:
        return False
    return True


def _time_style(spec: str, *, zoned: bool) -> Style | None:
    if "%" in spec:
        known = _DIRECTIVES | {"z", "Z"} if zoned else _DIRECTIVES
        return Style(partial(_write_times, pattern=spec)) if set(_DIRECTIVE.findall(spec)) <= known else None
    count = _COUNT.fullmatch(spec)
    if not count:
        return None
    seconds = _SECONDS[count[1]]
    if count[2] == _PREVIOUS:
        return Style(format_values, partial(_since_previous, seconds=seconds))
    try:
        origin = int(np.datetime64(count[2], "s").astype(np.int64))
    except ValueError:  # Not a date, such as 31 February.
        return None
    return Style(format_values, partial(_since_origin, seconds=seconds, origin=origin), counts=True)


def _write_each(values: Column, write: Callable[[Any], str]) -> pa.Array:
    if pa.types.is_duration(values.type):
        values = seconds_of(values)
    return pa.array(
        [None if value is None or value != value else write(value) for value in values.to_pylist()], pa.large_string()
    )


def _write_formatted(value: Any, spec: str, whole: type[float]) -> str:
    if abs(value) < _MAX_WHOLE and value == int(value):
        return format(whole(value), spec)
    number = float(value)
    # A decimal with more digits than a float keeps them.
    return format(number if isinstance(value, float) or Decimal(repr(number)) == value else value, spec)


def _round_to_digits(value: float, n_digits: int) -> str:
    return np.format_float_positional(float(value) + 0.0, precision=n_digits, unique=False, fractional=False, trim="-")


def _write_times(values: Column, pattern: str) -> pa.Array:
    if pa.types.is_timestamp(values.type):
        if "%z" in pattern or "%Z" in pattern:
            values = _floor_seconds(values)
        else:
            local = values if values.type.tz is None else pc.local_timestamp(values)
            # As coarse as the pattern, so that values repeat, and no finer than `%S`, which would show a fraction.
            values = pc.floor_temporal(local, unit=_finest_unit(pattern)).cast(pa.timestamp("s"))
    encoded = combine(values).dictionary_encode()
    texts = pc.strftime(encoded.dictionary, format=pattern).cast(pa.large_string())
    return texts.take(encoded.indices)


def _floor_seconds(times: Column) -> Column:
    # In UTC: when clocks are set back, a local time is ambiguous, and Arrow refuses to round it.
    zone = times.type.tz
    utc = times.cast(pa.timestamp(times.type.unit, "UTC" if zone else None))
    return pc.floor_temporal(utc, unit="second").cast(pa.timestamp("s", zone))


def _finest_unit(pattern: str) -> str:
    directives = set(_DIRECTIVE.findall(pattern))
    if directives & set("ScrTX"):
        return "second"
    if directives & set("MR"):
        return "minute"
    return "hour" if directives & set("HIp") else "day"


def _since_origin(
    column: pa.ChunkedArray, offsets: npt.NDArray[np.int64], *, seconds: int, origin: int
) -> pa.ChunkedArray:
    whole, _, missing = _split_seconds(column, local=True)
    return _whole_numbers((whole - origin) // seconds, missing)


def _since_previous(
    column: pa.ChunkedArray, offsets: npt.NDArray[np.int64], *, seconds: int | None = None
) -> pa.ChunkedArray:
    firsts = np.zeros(len(column), dtype=bool)
    firsts[offsets[:-1][offsets[:-1] < offsets[1:]]] = True
    if seconds is None:
        distances = _differences(combine(column))
        return pa.chunked_array([pc.if_else(pa.array(firsts), pa.scalar(None, distances.type), distances)])
    # Whole seconds and fractions apart: the distance of two times in nanoseconds may exceed 64 bits.
    whole, fraction, missing = _split_seconds(column, local=False)
    distances = np.diff(whole, prepend=whole[:1]) - (np.diff(fraction, prepend=fraction[:1]) < 0)
    missing_before = np.append(False, missing[:-1])[: len(missing)]
    return _whole_numbers(distances // seconds, missing | missing_before | firsts)


def _differences(values: pa.Array) -> pa.Array:
    """Return each number or duration minus the one before it."""

    def minus_previous(type_: pa.DataType) -> pa.Array:
        numbers = values.cast(type_)
        return pc.subtract_checked(numbers, pa.concat_arrays([pa.nulls(min(1, len(values)), type_), numbers[:-1]]))

    if pa.types.is_decimal(values.type):  # The difference has one digit more.
        return minus_previous(pa.decimal256(min(values.type.precision, 75), values.type.scale))
    if pa.types.is_floating(values.type):
        return minus_previous(pa.float64())
    if pa.types.is_duration(values.type):
        return minus_previous(pa.int64()).cast(values.type)
    try:
        return minus_previous(pa.int64())
    except pa.ArrowInvalid:  # Of 64 bits without a sign, or far apart.
        return minus_previous(pa.decimal128(20))


def _split_seconds(
    column: pa.ChunkedArray, *, local: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the whole seconds of times since 1970, the rest in their unit, and which times are missing (both 0)."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    if local and column.type.tz is not None:
        column = pc.local_timestamp(column)
    steps = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    whole, fraction = np.divmod(steps, UNITS_PER_SECOND[column.type.unit])
    return whole, fraction, column.is_null().to_numpy()


def _whole_numbers(values: npt.NDArray[np.int64], missing: npt.NDArray[np.bool_]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.int64(), mask=missing)])
