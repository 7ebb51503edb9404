"""Hypothesis strategies for event frames: any type, any value, any shape, in every kind of dataframe.

`frames` has one row a user, as `EventSerializer` reads it; `tables` has one row an event, as `nest_events` reads it.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from event_kinds import EVENT_KINDS
from hypothesis import strategies as st
from test_hostile_fields import HOSTILE

#: The field that numbers all events of a frame, so that a lost or moved one is seen.
NUMBER = "number of the event"
#: Names that decide how values are written anew.
NAMES = ["amount", "rating", "date", "time", "price", "mcc"]
ZONES = [None, "UTC", "Asia/Kathmandu", "America/Sao_Paulo", "+14:00"]

#: Numbers and dates that are none, or none that a machine holds.
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
    st.sampled_from("90").map(lambda digit: digit * 5000),  # More than Python reads as an integer.
    st.text(st.characters(min_codepoint=0x10000), max_size=3),  # The planes above the first.
    st.text(st.sampled_from(list(', |"\n\r\t;\0\x85\u2028\u202e\ufeff\ufffe\U000e0001')), max_size=6),
)


def _integers(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.sampled_from([low, high, 0, 1]) | st.integers(low, high)


def _floats(bits: int) -> st.SearchStrategy[float]:
    return st.floats(width=bits) | st.integers(-99, 99).map(float)


def _stored(type_: pa.DataType) -> tuple[pa.DataType, st.SearchStrategy[int]]:
    """How a time or duration is stored: as integers of the whole range, or of what is a day."""
    bits = type_.bit_width
    values = _integers(bits) | st.integers(0, 2**30)
    if pa.types.is_time(type_):
        values = st.integers(0, 86_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[type_.unit] - 1)
    if pa.types.is_date64(type_):
        values = st.integers(-(2**63) // 86_400_000 + 1, 2**63 // 86_400_000 - 1).map(lambda day: day * 86_400_000)
    return pa.int32() if bits == 32 else pa.int64(), values


#: What the libraries say of values that they cannot hold.
UNFIT = (
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    AttributeError,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
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
#: What has no plain text: an error says so.
REFUSED: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.binary(): st.binary(max_size=3),
    pa.struct([("a", pa.int64())]): st.fixed_dictionaries({"a": st.integers(0, 9)}),
    pa.map_(pa.string(), pa.int64()): st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9)), max_size=2),
    pa.month_day_nano_interval(): st.tuples(*[st.integers(-9, 9)] * 3),
}


@st.composite
def plain_arrays(draw: st.DrawFn, n: int, *, missing: bool = True) -> pa.Array:
    """Draw one field of `n` events: of any type that can be written, with missing values or without."""
    type_ = draw(st.sampled_from([*PLAIN, *STORED] if missing else [*PLAIN, *STORED][1:]))
    stored, values = (type_, PLAIN[type_]) if type_ in PLAIN else _stored(type_)
    repeated = st.sampled_from(draw(st.lists(values, min_size=1, max_size=2)))
    values = draw(st.sampled_from([values, repeated] + [st.none() | values] * missing))
    return pa.array(draw(st.lists(values, min_size=n, max_size=n)), stored).view(type_)


@st.composite
def arrays(draw: st.DrawFn, n: int) -> pa.Array:
    """Draw one field of `n` events: plain, as a dictionary, or in lists; now and then of a type without a text."""
    shape = draw(st.sampled_from(["plain"] * 12 + ["dictionary", "list", "list of lists"] * 2 + ["refused"]))
    if shape == "refused":
        type_ = draw(st.sampled_from(list(REFUSED)))
        return pa.array(draw(st.lists(st.none() | REFUSED[type_], min_size=n, max_size=n)), type_)
    if shape.startswith("list"):
        inner, list_type = draw(arrays(2 * n)), draw(st.sampled_from([pa.ListArray, pa.LargeListArray]))
        lists = list_type.from_arrays(np.arange(0, 2 * n + 1, 2), inner)
        return pa.ListArray.from_arrays(np.arange(n + 1), lists) if shape == "list of lists" else lists
    array = draw(plain_arrays(n))
    encodable = not any(check(array.type) for check in (pa.types.is_null, pa.types.is_string_view, pa.types.is_float16))
    return array.dictionary_encode() if shape == "dictionary" and encodable else array


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
    """Draw users with their events; users without events, and users of one label, are among them."""
    lengths = draw(st.lists(st.sampled_from([None, 0, 1, 1, 2, 7]), max_size=6))
    n = sum(length or 0 for length in lengths)
    names = draw(st.lists(texts | st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    fields = {name: draw(arrays(n)) for name in names}
    if numbered := draw(st.booleans()):
        fields[NUMBER] = pa.array(np.arange(n))
    offsets = pa.array(
        np.cumsum([0, *(length or 0 for length in lengths)]),
        pa.int32(),
        mask=np.array([length is None for length in lengths] + [False]),
    )
    lists = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(list(fields.values()), names=list(fields)))
    index = pd.Index(draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths))))
    return Frame(
        *_in_kind(draw(st.sampled_from(list(EVENT_KINDS))), lists, index), [length or 0 for length in lengths], numbered
    )


def _in_kind(kind: str, lists: pa.Array, index: pd.Index) -> tuple[Any, str | list[str]]:
    """Put the events into a dataframe of a kind, or of pandas' Arrow types where the kind cannot hold them."""
    try:
        X, events = EVENT_KINDS[kind](lists, index)
    except UNFIT:
        X, events = EVENT_KINDS["pandas-arrow"](lists, index)
    return X, events


@st.composite
def tables(draw: st.DrawFn) -> Any:
    """Draw a long table with the columns ``user`` and ``time`` and others, of pandas, polars or Arrow."""
    n = draw(st.integers(0, 9))
    keys = {name: draw(plain_arrays(n, missing=False) | arrays(n)) for name in ("user", "time")}
    others = {name: draw(arrays(n)) for name in draw(st.lists(texts, max_size=3, unique=True))}
    table = pa.table(others | keys | {NUMBER: np.arange(n)})
    return draw(st.sampled_from([_as_pandas, _as_numpy, _as_polars, lambda table: table]))(table)


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
