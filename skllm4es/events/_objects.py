"""Columns of Python objects as Arrow arrays: what a value becomes depends on that value alone.

Arrow's own inference squeezes later values into the type of the first: times become dates, texts bytes. Here, the
values of a column must all be of one kind, whatever their order, or an `UnfitError` says which are not.
"""

from __future__ import annotations

import bisect
import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from skllm4es.events._arrow import is_offset, list_array, offsets_of

#: Kinds whose values are written alike and convert to one type exactly, or not at all.
_TOGETHER = ({"integers", "floats"}, {"integers", "decimals"})

#: Kinds that the type of a value decides. The first that fits counts: booleans and numpy's durations are integers, too.
_KINDS_OF_TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bool, np.bool_), "booleans"),
    ((dt.timedelta, np.timedelta64), "durations"),
    ((int, np.integer), "integers"),
    (float, "floats"),
    (np.float32, "32-bit floats"),
    (np.float16, "16-bit floats"),
    (Decimal, "decimals"),
    (str, "texts"),
    ((bytes, bytearray, memoryview), "bytes"),
    (UUID, "UUIDs"),
    (dict, "dicts"),
    ((list, tuple), "lists"),
)
#: Types whose kind depends on the value: a zone, a frequency, a unit, the number of dimensions.
_VARIED = (dt.date, np.datetime64, dt.time, pd.Period, pd.Interval, np.ndarray)

_EPOCH = dt.datetime(1970, 1, 1)
_SECOND = 10**9
_NANOSECONDS = {"D": 86_400 * _SECOND, "h": 3600 * _SECOND, "m": 60 * _SECOND, "s": _SECOND}
_NANOSECONDS |= {"ms": 10**6, "us": 1000, "ns": 1}

#: Arrow itself reads NaN among these as null.
_NUMBERS = ({int, float, type(None)}, {int, Decimal, type(None)})
_NEVER_MISSING = {bool, bytes, dict, dt.date, dt.datetime, int, list, pd.Timestamp, str, tuple, np.ndarray, type(None)}


@dataclass(frozen=True)
class Problem:
    """A value that does not fit.

    Parameters
    ----------
    why : str
        What is wrong.
    position : int
        Its row.
    value : object
        The value.
    firsts : tuple of (str, int)
        Types that do not go together, and the first row of each.
    path : tuple of str
        The fields that lead to it, from the outermost.
    """

    why: str
    position: int
    value: Any
    firsts: tuple[tuple[str, int], ...] = ()
    path: tuple[str, ...] = ()

    def describe(self, name: str, type_: Any, row: Callable[[int], Any]) -> str:
        """Describe it as part of the column `name`, whose rows messages call `row(position)`."""
        seen = f"from row {row(self.position)!r} on, which holds {shown(self.value)}"
        firsts = " and ".join(f"{type_} (first in row {row(position)!r})" for type_, position in self.firsts)
        return f"{'.'.join(filter(None, (name, *self.path)))!r} ({type_}, {seen}): {firsts}{self.why}"


class UnfitError(TypeError):
    """Values that cannot form one column."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems)
        self.problems = problems

    def moved(self, rows: Any, *path: str) -> UnfitError:
        """Return the same for a column that holds these values in its rows `rows`, in the field `path`."""

        def move(problem: Problem) -> Problem:
            firsts = tuple((type_, int(rows[position])) for type_, position in problem.firsts)
            return replace(problem, position=int(rows[problem.position]), firsts=firsts, path=(*path, *problem.path))

        return UnfitError(*map(move, self.problems))


def convert_objects(values: Sequence[Any]) -> pa.Array:
    """Convert Python objects of one kind; missing values of any kind become null.

    Integers go together with floats or decimals that represent them exactly. Times whose zone is a mere offset become
    times in UTC. UUIDs, periods and intervals become texts that keep their order; lists, arrays, series and tensors of
    one dimension become lists, dicts structs.

    Raises
    ------
    UnfitError
        If the values are of several kinds, or Arrow cannot hold one of them.
    """
    types = set(map(type, values))
    if not (types <= _NEVER_MISSING or any(types <= numbers for numbers in _NUMBERS)):
        values = [None if is_missing(value) else value for value in values]
        types = set(map(type, values))
    kinds = _find_kinds(values, types - {type(None)})
    if not kinds:
        return pa.nulls(len(values))
    if not go_together(kinds):
        names = [type(values[position]).__name__ for position in kinds.values()]
        raise UnfitError(mixture(kinds, names, values.__getitem__))
    return _convert_kind(values, next((kind for kind in kinds if kind != "integers"), "integers"))


def go_together(kinds: Iterable[str]) -> bool:
    """Whether values of these kinds form one column."""
    kinds = set(kinds)
    return len(kinds) <= 1 or kinds in _TOGETHER


def mixture(kinds: dict[str, int], names: list[str], value: Callable[[int], Any]) -> Problem:
    """Return the problem of values of several kinds, given the first position and the type name of each."""
    if len(set(names)) < len(names):  # Such as times in several zones, which are of one type.
        names = list(kinds)
    firsts = tuple(zip(names, kinds.values(), strict=True))
    position = next(position for n, (_, position) in enumerate(firsts) if not go_together(list(kinds)[: n + 1]))
    why = " do not form one column"
    if all(kind.startswith("times ") and kind != "times of day" for kind in kinds):
        why += "; convert them to one zone, for example with pd.to_datetime(column, utc=True)"
    return Problem(why, position, value(position), firsts)


def is_missing(value: Any) -> bool:
    """Whether a value is one of the many that stand for a missing one."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, float | np.floating | np.datetime64 | np.timedelta64):
        return bool(value != value)
    return isinstance(value, Decimal) and value.is_nan()


def elements_of(value: Any) -> Sequence[Any] | npt.NDArray[Any] | None:
    """Return the elements of a list, tuple, array, series or tensor of one dimension; None for anything else."""
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, str | bytes | bytearray | memoryview | pd.DataFrame | type):
        return None
    if isinstance(value, Sequence):
        return list(value)
    library = type(value).__module__.partition(".")[0]
    if library == "polars" and hasattr(value, "to_list"):
        if str(value.dtype) == "Object":
            return value.to_list()
        value, library = value.to_arrow(), "pyarrow"  # Which keeps the nanoseconds of times.
    if library == "pyarrow" and hasattr(value, "to_pylist") and not isinstance(value, pa.Table):
        if value.type == pa.time64("ns"):  # Python has no such times of day.
            value = value.cast(pa.time64("us"))
        return value.to_pylist()
    array = np.asarray(value) if hasattr(value, "__array__") and library not in ("polars", "pyarrow") else None
    return None if array is None or array.ndim != 1 else array


def shown(value: Any) -> str:
    """Return what messages show of a value."""
    try:
        return " ".join(repr(value).split())[:60]
    except Exception:  # Such as integers of more than 4,300 digits, and zoned times of pandas after the year 9999.
        return f"a value of type {type(value).__name__}"


def find_unfit(values: Any, convert: Callable[[Any], Any]) -> int:
    """Return the position of the first value that cannot be converted with those before it, or their number."""

    def is_unfit(n_values: int) -> bool:
        try:
            convert(values[:n_values])
        except Exception:
            return True
        return False

    return bisect.bisect_left(range(1, len(values) + 1), True, key=is_unfit)


def _find_kinds(values: Sequence[Any], types: set[type]) -> dict[str, int]:
    """Return the kinds of values and the position of the first value of each, in the order of the rows."""
    by_type = {type_: _kind_of_type(type_) for type_ in types}
    found = set(by_type.values())
    if None not in found and len(found) <= 1:
        return dict.fromkeys([kind for kind in found if kind], 0)
    kinds: dict[str, int] = {}
    for position in _first_of_each_zone(values) if types <= {dt.datetime, pd.Timestamp} else range(len(values)):
        if (value := values[position]) is not None:
            kinds.setdefault(by_type[type(value)] or _kind_of_value(value, position), position)
    return kinds


def _first_of_each_zone(times: Sequence[Any]) -> Iterable[int]:
    zones: dict[int, int] = {}
    for position, time in enumerate(times):
        if time is not None:
            zones.setdefault(id(time.tzinfo), position)
    return zones.values()


def _kind_of_type(type_: type) -> str | None:
    if type_ is dt.date:
        return "dates"
    if issubclass(type_, _VARIED):
        return None
    return next((kind for classes, kind in _KINDS_OF_TYPES if issubclass(type_, classes)), None)


def _kind_of_value(value: Any, position: int) -> str:
    if isinstance(value, dt.datetime | np.datetime64):
        zone = _zone(value)
        return "times without a zone" if zone is None else f"times in {zone}"
    if isinstance(value, dt.date):
        return "dates"
    if isinstance(value, dt.time) and value.tzinfo is None:
        return "times of day"
    if isinstance(value, pd.Period):
        return f"periods of {value.freqstr}"
    if isinstance(value, pd.Interval):
        ends = " and ".join(type(end).__name__ for end in (value.left, value.right))
        return f"intervals of {ends} closed {value.closed}"
    try:
        if elements_of(value) is not None:
            return "lists"
    except Exception as error:
        raise UnfitError(Problem(str(error), position, value)) from error
    raise UnfitError(Problem(_why_unheld(value), position, value))


def _why_unheld(value: Any) -> str:
    name = type(value).__name__
    if isinstance(value, set | frozenset):
        return f"a {name} has no order, so its text would differ from process to process; use sorted lists"
    if isinstance(value, dt.time):
        return "a time of day with a zone is no point in time; remove the zone"
    return f"Arrow has no type for a {name}"


def _zone(value: Any) -> str | None:
    """Return the zone of a time; UTC if it is known by its offset only, which changes with the seasons."""
    zone = getattr(value, "tzinfo", None)
    if zone is None:
        return None
    try:
        name = pa.lib.tzinfo_to_string(zone)
        return "UTC" if is_offset(name) else ZoneInfo(name).key
    except Exception:
        return "UTC"


def _convert_kind(values: Sequence[Any], kind: str) -> pa.Array:
    if kind == "lists":
        return _convert_lists(values)
    if kind == "dicts":
        return _convert_dicts(values)
    convert = _CONVERTERS.get(kind) or _CONVERTERS[kind.partition(" ")[0]]
    try:
        return convert(values)
    except MemoryError:
        raise
    except Exception as error:
        position = min(find_unfit(values, convert), len(values) - 1)
        raise UnfitError(Problem(str(error), position, values[position])) from error


def _convert_lists(values: Sequence[Any]) -> pa.Array:
    cells = [None if value is None else elements_of(value) for value in values]
    offsets = offsets_of(np.array([0 if cell is None else len(cell) for cell in cells], dtype=np.int64))
    try:
        elements = _convert_end_to_end([cell for cell in cells if cell is not None])
    except UnfitError as error:
        raise error.moved(np.repeat(np.arange(len(cells)), np.diff(offsets))) from error
    return list_array(elements, offsets, [cell is None for cell in cells])


def _convert_end_to_end(cells: list[Any]) -> pa.Array:
    dtypes = {cell.dtype if isinstance(cell, np.ndarray) else None for cell in cells if len(cell)}
    dtype = next(iter(dtypes)) if len(dtypes) == 1 else None
    if dtype is not None and (dtype.kind in "biuf" or dtype.name.endswith(("[s]", "[ms]", "[us]", "[ns]"))):
        try:
            return pa.array(np.concatenate([cell for cell in cells if len(cell)]), from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass  # Such as another byte order, which the single values do not have.
    return convert_objects(list(chain.from_iterable(cells)))


def _convert_dicts(values: Sequence[Any]) -> pa.Array:
    missing = [value is None for value in values]
    present: Sequence[Mapping[Any, Any]] = [value or {} for value in values] if any(missing) else values
    fields: dict[str, pa.Array] = {}
    problems: list[Problem] = []
    for key in dict.fromkeys(chain.from_iterable(present)):
        try:
            if not isinstance(key, str):
                first = next(position for position, value in enumerate(present) if key in value)
                raise UnfitError(Problem(f"the key {shown(key)} is not a string", first, values[first]))
            key.encode()  # A lone surrogate is no character, in names as in values.
            fields[key] = convert_objects([value.get(key) for value in present])
        except UnfitError as error:
            path = (key,) if isinstance(key, str) else ()
            problems += error.moved(range(len(values)), *path).problems
        except UnicodeEncodeError as error:
            first = next(position for position, value in enumerate(present) if key in value)
            problems.append(Problem(str(error), first, values[first]))
    if problems:
        raise UnfitError(*problems)
    if not fields:
        return pa.array([None if value is None else {} for value in values], pa.struct([]))
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields), mask=pa.array(missing))


def _as_type(type_: pa.DataType) -> Callable[[Sequence[Any]], pa.Array]:
    return lambda values: pa.array(values, type_, from_pandas=True)


def _convert_integers(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.int64())
    except (OverflowError, pa.ArrowInvalid):
        return pa.array(values, pa.uint64())


def _convert_texts(values: Sequence[Any]) -> pa.Array:
    texts = pa.array(values, pa.string())
    return texts if isinstance(texts, pa.Array) else pa.array(values, pa.large_string())  # More than 2 GB.


def _convert_decimals(values: Sequence[Any]) -> pa.Array:
    # Of integers beside decimals, Arrow makes room for too few digits.
    decimals = [Decimal(int(value)) if isinstance(value, int | np.integer) else value for value in values]
    try:
        return pa.array(decimals, from_pandas=True)
    except TypeError as error:
        raise ValueError("Arrow's decimals are finite") from error


def _convert_times(values: Sequence[Any]) -> pa.Array:
    zone = _zone(next((value for value in values if value is not None), None))
    return _convert_units(values, lambda unit: pa.timestamp(unit, zone))


def _convert_units(values: Sequence[Any], type_: Callable[[str], pa.DataType]) -> pa.Array:
    """Convert times or durations to microseconds, or to nanoseconds if some have them; by default, Arrow cuts them."""
    try:
        units = pa.array(values, type_("ns"))
    except (TypeError, ValueError, OverflowError, NotImplementedError):  # Far from 1970, or of numpy.
        numbers = [None if value is None else _nanoseconds(value) for value in values]
        if all(number is None or number % 1000 == 0 for number in numbers):
            numbers = [None if number is None else number // 1000 for number in numbers]
            return pa.array(numbers, pa.int64()).cast(type_("us"))
        return pa.array(numbers, pa.int64()).cast(type_("ns"))
    try:
        return units.cast(type_("us"))
    except pa.ArrowInvalid:
        return units


def _nanoseconds(value: Any) -> int:
    if isinstance(value, pd.Timestamp | pd.Timedelta):
        value = value.to_numpy()
    if isinstance(value, np.datetime64 | np.timedelta64):
        unit, step = np.datetime_data(value)
        if unit not in _NANOSECONDS:
            raise ValueError(f"{value!r} has the unit {unit}, which Arrow lacks")
        return int(value.astype(np.int64)) * step * _NANOSECONDS[unit]
    if isinstance(value, dt.datetime):
        value = value.replace(tzinfo=None) - _EPOCH - (value.utcoffset() or dt.timedelta())
    return ((value.days * 86_400 + value.seconds) * 10**6 + value.microseconds) * 1000


def texts_in_order(values: Sequence[Any]) -> pa.DictionaryArray:
    """Write values as texts that keep their order."""
    distinct = sorted({value for value in values if value is not None})
    number = {value: position for position, value in enumerate(distinct)}
    codes = pa.array([None if value is None else number[value] for value in values], pa.int32())
    return pa.DictionaryArray.from_arrays(codes, pa.array(map(str, distinct), pa.large_string()), ordered=True)


#: How the values of a kind, or of all kinds that begin with a word, are converted.
_CONVERTERS: dict[str, Callable[[Sequence[Any]], pa.Array]] = {
    "booleans": _as_type(pa.bool_()),
    "integers": _convert_integers,
    "floats": _as_type(pa.float64()),
    "32-bit floats": _as_type(pa.float32()),
    "16-bit floats": _as_type(pa.float16()),
    "decimals": _convert_decimals,
    "texts": _convert_texts,
    "bytes": _as_type(pa.binary()),
    "dates": _as_type(pa.date32()),
    "times of day": _as_type(pa.time64("us")),
    "times": _convert_times,
    "durations": lambda values: _convert_units(values, pa.duration),
    "UUIDs": texts_in_order,
    "periods": texts_in_order,
    "intervals": texts_in_order,
}
