"""Hypothesis strategies for event frames: any type, any value, any shape, in every kind of dataframe.

`frames` has one row per user, as `EventSerializer` reads it; `tables` has one row per event, as `nest_events` reads it.
Most fields are drawn as Arrow arrays; some are of types that only pandas or polars have.
"""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from importlib.util import find_spec
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
from event_kinds import EVENT_KINDS
from hypothesis import reject
from hypothesis import strategies as st
from test_hostile_fields import HOSTILE

try:
    import polars as pl
except ImportError:
    pl = None

#: Kinds of dataframes whose library is installed; drawing another one would skip the whole test.
KINDS = [
    kind
    for kind in EVENT_KINDS
    if not kind.startswith(("polars", "nested-pandas"))
    or find_spec("polars" if kind.startswith("polars") else "nested_pandas")
]
#: The field that numbers all events of a frame, to detect a lost or moved one.
NUMBER = "number of the event"
#: Names that decide how values are rewritten.
NAMES = ["amount", "rating", "date", "time", "price", "mcc"]
ZONES = [None, "UTC", "Asia/Kathmandu", "America/Sao_Paulo", "+14:00"]

#: Strings that look like numbers or dates but are none, or none that a machine can hold.
ODD = [
    "-" + "9" * 40 + "." + "9" * 40,
    "0" * 50 + "1",
    "1e999999",
    "-0.0",
    "1,234,567.89",
    "\u0663\u0664.\u0665",
    "1\u00b2",
    "0000-00-00",
    "2020-13-45 25:61:61",
    "9999-12-31T23:59:59.999999999Z",
    "NaN",
    "",
]
texts = st.one_of(
    st.text(max_size=6),
    st.sampled_from(HOSTILE + ODD),
    st.sampled_from("90").map(lambda digit: digit * 5000),  # Longer than Python parses as an integer.
    st.text(st.characters(min_codepoint=0x10000), max_size=3),  # Beyond the basic plane.
    st.text(st.sampled_from(list(', |"\n\r\t;\0\x85\u2028\u202e\ufeff\ufffe\U000e0001')), max_size=6),
)


def _integers(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.sampled_from([low, high, 0, 1]) | st.integers(low, high)


def _floats(bits: int) -> st.SearchStrategy[float]:
    return st.floats(width=bits) | st.integers(-99, 99).map(float)


def _stored(type_: pa.DataType) -> tuple[pa.DataType, st.SearchStrategy[int]]:
    """Return how a time or duration is stored: as an integer type, and the integers to draw."""
    bits = type_.bit_width
    values = _integers(bits) | st.integers(0, 2**30)
    if pa.types.is_time(type_):
        values = st.integers(0, 86_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[type_.unit] - 1)
    if pa.types.is_date64(type_):
        values = st.integers(-(2**63) // 86_400_000 + 1, 2**63 // 86_400_000 - 1).map(lambda day: day * 86_400_000)
    return pa.int32() if bits == 32 else pa.int64(), values


#: What the libraries raise for values that they cannot hold.
UNFIT = (
    ValueError,
    TypeError,
    ArithmeticError,
    NotImplementedError,
    AttributeError,
    *((pl.exceptions.PolarsError, pl.exceptions.PanicException) if pl else ()),
)
UNITS = ("s", "ms", "us", "ns")
STORED = [
    pa.date32(),
    pa.date64(),
    pa.time32("s"),
    pa.time32("ms"),
    pa.time64("us"),
    pa.time64("ns"),
    *(pa.timestamp(unit, zone) for unit in UNITS for zone in ZONES),
    *(pa.duration(unit) for unit in UNITS),
]
PLAIN: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    **{getattr(pa, f"int{bits}")(): _integers(bits) for bits in (8, 16, 32, 64)},
    **{getattr(pa, f"uint{bits}")(): _integers(bits, signed=False) for bits in (8, 16, 32, 64)},
    pa.float16(): _floats(16).map(np.float16),
    pa.float32(): _floats(32),
    pa.float64(): _floats(64),
    pa.decimal128(38, 10): st.decimals(-(10**27), 10**27, places=10),
    pa.decimal256(76, 0): st.decimals(-(10**75), 10**75, places=0),
    **dict.fromkeys((pa.string(), pa.large_string(), pa.string_view()), texts),
}
#: Types without a text form, which are rejected.
REJECTED: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.binary(): st.binary(max_size=3),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.binary_view(): st.binary(max_size=3),
    pa.struct([("a", pa.int64())]): st.fixed_dictionaries({"a": st.integers(0, 9)}),
    pa.map_(pa.string(), pa.int64()): st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9)), max_size=2),
    pa.month_day_nano_interval(): st.tuples(*[st.integers(-9, 9)] * 3),
}


@st.composite
def plain_arrays(draw: st.DrawFn, n: int, *, missing: bool = True) -> pa.Array:
    """Draw one field of `n` events, of any type that can be written, with or without missing values."""
    type_ = draw(st.sampled_from([*PLAIN, *STORED] if missing else [*PLAIN, *STORED][1:]))
    stored, values = (type_, PLAIN[type_]) if type_ in PLAIN else _stored(type_)
    repeated = st.sampled_from(draw(st.lists(values, min_size=1, max_size=2)))
    values = draw(st.sampled_from([values, repeated] + [st.none() | values] * missing))
    return pa.array(draw(st.lists(values, min_size=n, max_size=n)), stored).view(type_)


def _as_dictionary(array: pa.Array) -> pa.Array:
    """Encode an array as a dictionary, with each value once if Arrow can."""
    try:
        return array.dictionary_encode()
    except pa.ArrowNotImplementedError:
        return pa.DictionaryArray.from_arrays(np.arange(len(array)), array)


@st.composite
def arrays(draw: st.DrawFn, n: int) -> pa.Array:
    """Draw one field of `n` events: plain, as a dictionary, in lists, or sometimes of a type without a text form."""
    shape = draw(st.sampled_from(["plain"] * 12 + ["dictionary", "list", "list of lists"] * 2 + ["rejected"]))
    if shape == "rejected":
        type_ = draw(st.sampled_from(list(REJECTED)))
        array = pa.array(draw(st.lists(st.none() | REJECTED[type_], min_size=n, max_size=n)), type_)
        return _as_dictionary(array) if draw(st.booleans()) else array
    if shape.startswith("list"):
        inner, list_type = draw(arrays(2 * n)), draw(st.sampled_from([pa.ListArray, pa.LargeListArray]))
        lists = list_type.from_arrays(np.arange(0, 2 * n + 1, 2), inner)
        return pa.ListArray.from_arrays(np.arange(n + 1), lists) if shape == "list of lists" else lists
    array = draw(plain_arrays(n))
    return _as_dictionary(array) if shape == "dictionary" and not pa.types.is_null(array.type) else array


_small = st.integers(-9, 9)
_odd_decimals = st.decimals(allow_nan=True, allow_infinity=True) | st.sampled_from([Decimal("sNaN"), Decimal("1e-99")])
_objects = st.one_of(
    st.none(),
    texts,
    _integers(128),
    st.floats(),
    st.complex_numbers(),
    _odd_decimals,
    st.fractions(),
    st.uuids(),
    st.binary(max_size=3),
    st.datetimes(timezones=st.none() | st.timezones()),
    st.builds(np.longdouble, st.floats()),
    st.builds(pd.Period, st.just("2020"), freq=st.sampled_from(["D", "M"])),
    st.builds(pd.Interval, st.just(0), st.integers(0, 9)),
    st.lists(st.complex_numbers() | st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), _small, max_size=2),
)


def _as_objects(values: list[Any]) -> pd.Series:
    return pd.Series(values, dtype=object)


def _period_array(numbers: list[int | None], freq: str) -> Any:
    return pd.PeriodIndex.from_ordinals([-(2**63) if number is None else number for number in numbers], freq=freq)


def _interval_array(numbers: list[int | None], unit: Callable[[int], Any]) -> Any:
    return pd.arrays.IntervalArray.from_tuples([None if n is None else (unit(n), unit(n + 1)) for n in numbers])


#: Fields that are pandas columns: the values they are made of, and how.
PANDAS_COLUMNS: dict[str, tuple[st.SearchStrategy[Any], Callable[[list[Any]], Any]]] = {
    "intervals": (st.none() | _small, lambda values: _interval_array(values, int)),
    "intervals of time": (_small, lambda values: _interval_array(values, pd.Timestamp)),
    "bins": (st.floats(-9, 9), lambda values: pd.cut(np.array(values), [-5, 0, 1.5, 9])),
    "bins without order": (st.floats(-9, 9), lambda values: pd.cut(np.array(values), [-5, 0, 9]).as_unordered()),
    "months": (st.none() | _small, lambda values: _period_array(values, "M")),
    "minutes": (_integers(64), lambda values: _period_array(values, "min")),
    "sparse integers": (_small, lambda values: pd.arrays.SparseArray(values, fill_value=0)),
    "sparse floats": (st.floats(), pd.arrays.SparseArray),
    "sparse texts": (st.none() | texts, lambda values: pd.arrays.SparseArray(np.array(values, dtype=object))),
    "nullable integers": (st.none() | _small, lambda values: pd.array(values, "Int8")),
    "nullable booleans": (st.none() | st.booleans(), lambda values: pd.array(values, "boolean")),
    "uuids": (st.none() | st.uuids(), _as_objects),
    "tuples as categories": (st.none() | st.tuples(_small, _small), pd.Categorical),
}
#: Pandas columns without a text form or without a type in Arrow, which are rejected.
PANDAS_REJECTED: dict[str, tuple[st.SearchStrategy[Any], Callable[[list[Any]], Any]]] = {
    "complex": (st.complex_numbers(), np.array),
    "longdouble": (st.floats(), lambda values: np.array(values, np.longdouble)),
    "other byte order": (_small, lambda values: np.array(values, ">i4")),
    "bytes": (st.binary(max_size=3), lambda values: np.array(values, "S3")),
    "decimals": (st.none() | _odd_decimals, _as_objects),
    "objects": (_objects, _as_objects),
    "categories": (st.sampled_from([1, 2.5, "a", None, (1, 2), 1j, Fraction(1, 3), UUID(int=7)]), pd.Categorical),
}
#: Fields that are polars columns: the values they are made of, and their type.
POLARS_COLUMNS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {}
POLARS_REJECTED: dict[str, tuple[st.SearchStrategy[Any], Any]] = {}
if pl:
    POLARS_COLUMNS = {
        "enum": (st.sampled_from([None, "b", "a"]), pl.Enum(["b", "a"])),
        "categories": (st.none() | texts, pl.Categorical),
        "arrays": (st.none() | st.tuples(_small, _small), pl.Array(pl.Int64, 2)),
        "decimals": (st.none() | st.decimals(-9, 9, places=2), pl.Decimal(9, 2)),
    }
    POLARS_REJECTED = {
        "objects": (_objects, pl.Object),
        "integers of 128 bits": (st.none() | _integers(128), pl.Int128),
        "lists of them": (st.none() | st.lists(_integers(128), max_size=2), pl.List(pl.Int128)),
        "structs of them": (st.fixed_dictionaries({"a": _integers(128)}), pl.Struct({"a": pl.Int128})),
    }


def _mostly(accepted: dict[str, Any], refused: dict[str, Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(4 * list(accepted.values()) + list(refused.values()))


@st.composite
def pandas_columns(draw: st.DrawFn, n: int) -> pd.Series:
    """Draw one field of `n` events as a pandas column, of objects if its values have no other type."""
    values, make = draw(_mostly(PANDAS_COLUMNS, PANDAS_REJECTED))
    drawn = draw(st.lists(values, min_size=n, max_size=n))
    try:
        return pd.Series(make(drawn))
    except UNFIT:
        return _as_objects(drawn)


@st.composite
def polars_columns(draw: st.DrawFn, n: int, *, objects: bool = True) -> Any:
    """Draw one field of `n` events as a polars column, of objects only if they are allowed."""
    refused = {name: column for name, column in POLARS_REJECTED.items() if objects or name != "objects"}
    values, dtype = draw(_mostly(POLARS_COLUMNS, refused))
    return pl.Series(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)


class Frame(NamedTuple):
    """Users and their events.

    Parameters
    ----------
    X : DataFrame
        The users.
    events : str or list of str
        Where the events are.
    lengths : list of int
        How many events each user has.
    numbered : bool
        Whether a field numbers the events, over all users.
    """

    X: Any
    events: str | list[str]
    lengths: list[int]
    numbered: bool


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Draw users with their events, including users without events and users that share a label."""
    lengths = draw(st.lists(st.sampled_from([None, 0, 1, 1, 2, 7]), max_size=6))
    counts = [length or 0 for length in lengths]
    n = sum(counts)
    names = draw(st.lists(texts | st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    index = pd.Index(draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths))))
    kind = draw(st.sampled_from([*KINDS, *NATIVE_KINDS]))
    columns, gather = NATIVE_KINDS.get(kind, (arrays, None))
    fields = {name: draw(columns(n)) for name in names}
    if numbered := draw(st.booleans()):
        fields[NUMBER] = pa.array(np.arange(n)) if gather is None else np.arange(n)
    if gather:
        starts = np.cumsum([0, *counts])
        slices = [None if lengths[i] is None else slice(starts[i], starts[i + 1]) for i in range(len(lengths))]
        return Frame(gather(fields, slices, index), "events", counts, numbered)
    offsets = pa.array(
        np.cumsum([0, *counts]), pa.int32(), mask=np.array([length is None for length in lengths] + [False])
    )
    lists = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(list(fields.values()), names=list(fields)))
    return Frame(*_in_kind(kind, lists, index), counts, numbered)


def _pandas_cells(fields: dict[str, Any], slices: list[slice | None], index: pd.Index) -> Any:
    frame = pd.DataFrame(fields)
    cells = [None if rows is None else frame.iloc[rows] for rows in slices]
    return pd.DataFrame({"events": pd.Series(cells, index, dtype=object)})


def _dict_cells(fields: dict[str, Any], slices: list[slice | None], index: pd.Index) -> Any:
    X = _pandas_cells(fields, slices, index)
    cells = [None if cell is None else cell.to_dict("records") for cell in X["events"]]
    return pd.DataFrame({"events": pd.Series(cells, index, dtype=object)})


def _polars_cells(fields: dict[str, Any], slices: list[slice | None], index: pd.Index) -> Any:
    frame = pl.DataFrame(fields)
    cells = [None if rows is None else frame[rows] for rows in slices]
    return pl.DataFrame({"user": pl.Series(index), "events": pl.Series(cells, dtype=pl.Object)})


def _polars_lists(fields: dict[str, Any], slices: list[slice | None], index: pd.Index) -> Any:
    structs = pl.DataFrame(fields).to_struct("events")
    cells = [None if rows is None else structs[rows] for rows in slices]
    try:
        lists = pl.Series(cells, dtype=pl.List(structs.dtype))
    except TypeError:  # polars reads integers of 128 bits as shorter ones here.
        reject()
    return pl.DataFrame({"user": pl.Series(index), "events": lists})


#: Kinds of dataframes with pandas or polars fields: how the fields are drawn, and how they become users.
NATIVE_KINDS: dict[str, tuple[Callable[[int], Any], Callable[..., Any]]] = {
    "dataframes": (pandas_columns, _pandas_cells),
    "dicts": (pandas_columns, _dict_cells),
}
if pl:
    NATIVE_KINDS["dataframes of polars"] = (polars_columns, _polars_cells)
    NATIVE_KINDS["lists of polars"] = (lambda n: polars_columns(n, objects=False), _polars_lists)


def _in_kind(kind: str, lists: pa.Array, index: pd.Index) -> tuple[Any, str | list[str]]:
    """Put the events into a dataframe of a kind, or of pandas' Arrow types if the kind cannot hold them."""
    try:
        X, events = EVENT_KINDS[kind](lists, index)
    except UNFIT:
        X, events = EVENT_KINDS["pandas-arrow"](lists, index)
    return X, events


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """Draw a long table of pandas, polars or Arrow with the columns ``user``, ``time`` and others."""
    n = draw(st.integers(0, 9))
    keys = {name: draw(plain_arrays(n, missing=False) | arrays(n)) for name in ("user", "time")}
    others = {name: draw(arrays(n)) for name in draw(st.lists(texts, max_size=3, unique=True))}
    table = pa.table(others | keys | {NUMBER: np.arange(n)})
    kinds = [_as_pandas, _as_numpy, lambda table: table, *([_as_polars] if pl else [])]
    table = draw(st.sampled_from(kinds))(table)
    if not isinstance(table, pa.Table):
        columns = pandas_columns if isinstance(table, pd.DataFrame) else polars_columns
        names = st.sampled_from(["user", "time", "a", "b", "b"])
        fields = {name: draw(columns(n)) for name in draw(st.lists(names, max_size=2, unique=True))}
        table = table.assign(**fields) if columns is pandas_columns else table.with_columns(**fields)
    return table


def _as_pandas(table: pa.Table) -> Any:
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def _as_numpy(table: pa.Table) -> Any:
    try:
        return table.to_pandas()
    except UNFIT:
        return table


def _as_polars(table: pa.Table) -> Any:
    try:
        return pl.DataFrame(table)
    except UNFIT:
        return table
