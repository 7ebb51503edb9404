"""Columns of Python objects: a value is written in one way, whoever stands beside it and in whatever order, or refused.

pandas and Arrow guess the type of such a column, and squeeze later values into the type of the first.
"""

import datetime as dt
import re
from collections import deque
from contextlib import nullcontext
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from skllm4es import EventSerializer, nest_events, unnest_events
from skllm4es.baselines import EventAggregator
from skllm4es.events._flat import flatten_events

PATIENT = settings(deadline=None)


def _hours(hours):
    return dt.timezone(dt.timedelta(hours=hours))


DAY = dt.date(2024, 1, 1)
NOON = dt.datetime(2024, 1, 1, 12)
BERLIN = ZoneInfo("Europe/Berlin")

_times = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2200, 1, 1))
#: Values by kind. Within a kind they are of several types.
KINDS = {
    "booleans": st.booleans() | st.booleans().map(np.bool_),
    "integers": st.integers(-9, 9) | st.integers(-9, 9).map(np.int8) | st.sampled_from([1000, 2**62, 2**63]),
    "floats": st.integers(-99, 99).map(lambda number: number / 4) | st.sampled_from([0.0, -0.0, np.float64(1)]),
    "32-bit floats": st.integers(-99, 99).map(lambda number: np.float32(number / 10)),
    "decimals": st.decimals(-9, 9, places=0)
    | st.decimals(-999, 999, places=2)
    | st.sampled_from([Decimal("0.00"), Decimal("-0.0"), Decimal("1.50"), Decimal("0E-7"), Decimal("1E+3")]),
    "texts": st.sampled_from(["a", "b", "1", "2024-01-01", "True", np.str_("a")]),
    "bytes": st.sampled_from([b"a", b"1", bytearray(b"b")]),
    "dates": st.dates(dt.date(2024, 1, 1), dt.date(2024, 1, 3)),
    "times": _times | _times.map(pd.Timestamp) | st.integers(0, 2**60).map(pd.Timestamp),
    "times of numpy": st.integers(0, 2**40).map(lambda seconds: np.datetime64(seconds, "s")),
    "zoned times": st.builds(lambda time, hours: time.replace(tzinfo=_hours(hours)), _times, st.integers(-12, 12)),
    "times in Berlin": _times.map(lambda time: time.replace(tzinfo=BERLIN)),
    "times of day": st.times(),
    "durations": st.timedeltas(dt.timedelta(-9), dt.timedelta(9)) | st.integers(0, 2**60).map(pd.Timedelta),
    "UUIDs": st.integers(0, 3).map(lambda number: UUID(int=number)),
    "months": st.integers(0, 9).map(lambda number: pd.Period(ordinal=number, freq="M")),
    "days": st.integers(0, 9).map(lambda number: pd.Period(ordinal=number, freq="D")),
    "lists": st.lists(st.integers(-9, 9), max_size=2).flatmap(
        lambda values: st.sampled_from([values, tuple(values), np.array(values, "int64"), pd.Series(values, dtype=int)])
    )
    | st.lists(st.sampled_from([0, 1, Decimal("0.00"), Decimal("1.50"), Decimal("1E+3")]), max_size=2),
    "sets": st.sets(st.integers(0, 9), max_size=2),
    "others": st.sampled_from([1j, object, range, DAY.replace]),
}
_missing = st.sampled_from([None, np.nan, pd.NA, pd.NaT, Decimal("NaN"), np.datetime64("NaT", "s")])


@st.composite
def columns(draw, kinds=tuple(KINDS), *, missing=True):
    """Draw the values of a column, of one or two kinds."""
    drawn = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=2))
    values = st.one_of([KINDS[kind] for kind in drawn] + [_missing] * missing)
    return draw(st.lists(values, min_size=1, max_size=5))


def _series(values):
    return pd.Series([*values, None], dtype=object)[:-1]  # pandas takes apart a single list.


def _as_table(values):
    table = pd.DataFrame({"user": range(len(values)), "value": _series(values)})
    return nest_events(table, user="user")


def _as_dicts(values):
    return pd.DataFrame({"events": _series([[{"value": value}] for value in values])})


def _as_lists(values):
    return pd.DataFrame({"value": _series([[value] for value in values])})


def _as_frames(values):
    return pd.DataFrame({"events": _series([pd.DataFrame({"value": _series([value])}) for value in values])})


def _as_dicts_and_a_frame(values):
    return pd.concat([_as_dicts(values[:-1]), _as_frames(values[-1:])])


def _as_polars_objects(values):
    pl = pytest.importorskip("polars", reason="needs polars")
    cells = [[{"value": value}] for value in values]
    return pl.DataFrame({"events": pl.Series(cells, dtype=pl.Object)})


PLACES = [_as_table, _as_dicts, _as_lists, _as_frames, _as_dicts_and_a_frame, _as_polars_objects]
place = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__.removeprefix("_as_"))


def written(values, place):
    """Return the text of each value, or None if the values are refused."""
    events = ["value"] if place is _as_lists else "events"
    try:
        return EventSerializer(events=events, time=None).fit_transform(place(values))["text"].to_list()
    except TypeError as error:
        if not re.search("Events are kept in Arrow|cannot form one column|written as text", str(error)):
            raise
        return None


@place
@PATIENT
@given(columns(), st.randoms(use_true_random=False))
def test_a_value_is_written_in_one_way_whatever_stands_beside_it(place, values, random):
    texts = written(values, place)
    order = list(range(len(values)))
    random.shuffle(order)
    permuted = written([values[i] for i in order], place)
    assert permuted == (None if texts is None else [texts[i] for i in order])
    if texts is not None:
        event("written")
        assert [written([value], place)[0] for value in values] == texts


@PATIENT
@given(columns(["times", "zoned times", "times in Berlin", "dates", "durations", "texts"], missing=False))
def test_a_column_whose_type_pandas_finds_is_written_like_its_rows(values):
    def texts(values):
        table = pd.DataFrame({"user": range(len(values)), "value": values})
        try:
            return EventSerializer(time=None).fit_transform(nest_events(table, user="user"))["text"].to_list()
        except TypeError:
            return None

    whole = texts(values)
    if whole is not None:
        assert [texts([value])[0] for value in values] == whole


@PATIENT
@given(columns(sorted(set(KINDS) - {"lists"}), missing=False))
def test_ids_that_compare_equal_are_one_user_and_others_are_not(ids):
    table = pd.DataFrame({"user": _series(ids), "row": range(len(ids))})
    try:
        X = nest_events(table, user="user")
    except TypeError:
        return
    event("nested")
    rows = {tuple(event["row"] for event in events) for events in X["events"]}
    assert rows == {tuple(row for row, other in enumerate(ids) if other == value) for value in ids}


@PATIENT
@given(columns(["times", "times of numpy", "zoned times", "dates", "durations", "floats", "integers"], missing=False))
def test_times_are_sorted_as_python_sorts_them_or_refused(times):
    table = pd.DataFrame({"user": 1, "time": _series(times), "row": range(len(times))})
    try:
        X = nest_events(table, user="user", time="time", columns=["row"])
    except TypeError:
        return
    event("nested")
    keys = [pd.Timestamp(time) if isinstance(time, np.datetime64) else time for time in times]
    assert [event["row"] for event in X["events"].iloc[0]] == sorted(range(len(keys)), key=keys.__getitem__)


#: Values that do not form one column, with the types that the message names.
MIXTURES = {
    "dates and times": ([DAY, NOON], "date", "datetime"),
    "times with and without a zone": ([NOON, NOON.astimezone(dt.UTC)], "times without a zone", "times in UTC"),
    "times in two zones": ([NOON.replace(tzinfo=BERLIN), NOON.replace(tzinfo=_hours(1))], "Europe/Berlin", "UTC"),
    "texts and bytes": (["a", b"a"], "str", "bytes"),
    "texts and numbers": (["1", 1], "str", "int"),
    "booleans and numbers": ([True, 1], "bool", "int"),
    "floats and decimals": ([1.5, Decimal("1.5")], "float", "Decimal"),
    "floats of two widths": ([0.1, np.float32(0.1)], "float", "float32"),
    "UUIDs and texts": ([UUID(int=1), str(UUID(int=1))], "UUID", "str"),
    "lists and values": ([[1], 1], "list", "int"),
    "dicts and values": ([{"a": 1}, 1], "dict", "int"),
    "months and days": ([pd.Period("2024", "M"), pd.Period("2024", "D")], "periods of M", "periods of D"),
    "intervals": ([pd.Interval(0, 1), pd.Interval(0.0, 1.0)], "intervals of int", "intervals of float"),
}


@place
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mixture_is_refused_in_every_place(kind, reverse, place):
    values, *types = MIXTURES[kind]
    if kind in ("months and days", "intervals") and "frame" in place.__name__:
        pytest.skip("each frame has a type of its own, whose values become texts")
    if reverse:
        values, types = values[::-1], types[::-1]
    with pytest.raises(TypeError, match="Convert them to numbers, times or strings, all of one type") as raised:
        flatten_events(place([values[0], *values]), ["value"] if place is _as_lists else "events")
    if "frame" not in place.__name__:
        first, second = (f"{type_}.*first in row {row}" for type_, row in zip(types, [0, 2], strict=True))
        assert raised.match(f"'value' .*{first}.*{second}.* do not form one column")


@pytest.mark.parametrize("role", ["user", "time"])
@pytest.mark.parametrize("kind", MIXTURES)
def test_a_mixture_is_refused_as_user_and_time(kind, role):
    table = pd.DataFrame({"user": 1, "time": 1, "row": range(2)}).assign(**{role: _series(MIXTURES[kind][0])})
    with pytest.raises(TypeError, match=f"cannot hold '{role}'.* do not form one column"):
        nest_events(table, user="user", time="time")


@pytest.mark.parametrize("values", [["a", b"a"], [DAY, NOON]])
def test_categories_that_are_a_mixture_are_refused(values):
    table = pd.DataFrame({"user": pd.Categorical([values[0], *values], values), "row": range(3)})
    with pytest.raises(TypeError, match=r"cannot hold 'user' \(category, from row 2 on"):
        nest_events(table, user="user")
    assert list(nest_events(table[:2], user="user").index) == values[:1]


def test_a_mixture_with_a_time_that_python_cannot_hold_is_refused():
    X = _as_dicts_and_a_frame([False, np.datetime64("10000-01-01", "s")])
    with pytest.raises(TypeError, match="10000-01-01"):
        flatten_events(X, "events")


def test_an_index_that_is_a_mixture_is_refused():
    X = pd.DataFrame({"events": [[{"a": 1}], [{"a": 2}]]}, index=pd.Index(["a", b"a"], dtype=object))
    with pytest.raises(TypeError, match="cannot hold 'user'"):
        unnest_events(X)


@place
@pytest.mark.parametrize("value", [{2, 1}, frozenset("ab"), [{1}]])
def test_sets_are_refused_because_they_have_no_order(value, place):
    with pytest.raises(TypeError, match=r"set has no order, so its text would differ from process to process"):
        flatten_events(place([value]), ["value"] if place is _as_lists else "events")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (2**64, ""),
        (Decimal("Infinity"), "decimals are finite"),
        (np.timedelta64(1, "Y"), "unit Y"),
        (np.datetime64(1, "ps"), "unit ps"),
        (dt.time(1, tzinfo=dt.UTC), "remove the zone"),
        (np.eye(2), "no type for a ndarray"),
        (1j, "no type for a complex"),
        ({1: 2}, "the key 1 is not a string"),
        ("\ud800", "surrogates"),
        (10**5000, "a value of type int"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_arrow_cannot_hold_is_named_with_its_row(value, why):
    with pytest.raises(TypeError, match=rf"'value' \(object, from row 1 on.*{why}.*Convert them"):
        _as_table([None, value])


def test_nanoseconds_and_far_years_are_kept():
    fine = [pd.Timestamp(1), pd.Timestamp(2, tz="Europe/Berlin"), pd.Timedelta(3)]
    far = [pd.Timestamp(np.datetime64("3000-01-01", "s")), dt.datetime.max, dt.timedelta(10**6)]
    for value in fine + far:
        assert flatten_events(_as_dicts([value])).columns["value"].to_pylist() == [value]
    far = pd.Timestamp(np.datetime64("20000-01-01", "s"))
    assert written([far, NOON], _as_dicts) == ["value\n20000-01-01 00:00:00", "value\n2024-01-01 12:00:00"]


def test_nanoseconds_of_arrays_are_kept():
    pl = pytest.importorskip("polars", reason="needs polars")
    for type_ in (pa.timestamp("ns"), pa.timestamp("ns", "Europe/Berlin"), pa.duration("ns")):
        array = pa.array([10**9 + 1, None], pa.int64()).cast(type_)
        for cell in (array, pl.Series(array)):
            read = flatten_events(_series_of_one(cell), ["value"]).columns["value"]
            assert read.cast(pa.int64()).to_pylist() == [10**9 + 1, None]
    for fits, cell in ((True, pl.Series([dt.time(1)])), (False, pa.array([1], pa.time64("ns")))):
        with nullcontext() if fits else pytest.raises(TypeError, match="value"):
            flatten_events(_series_of_one(cell), ["value"])


def _series_of_one(cell):
    return pd.DataFrame({"value": _series([cell])})


@place
def test_equal_numbers_are_written_alike_in_one_column(place):
    numbers = [0, Decimal("0.00"), 1, np.int8(1), Decimal("1.0"), Decimal("0E-7"), 1000, Decimal("1E+3"), 2**64 - 1]
    assert written(numbers, place) == [f"value\n{int(number)}" for number in numbers]
    assert written(numbers[::-1], place) == [f"value\n{int(number)}" for number in numbers[::-1]]
    assert written([1, 1.0, np.int8(1)], place) == ["value\n1"] * 3
    assert written(["0", "0.00"], place) == ["value\n0", "value\n0.00"]


def test_numbers_that_a_float_cannot_represent_are_refused_beside_floats():
    assert written([2**53 + 1, 2], _as_dicts) is not None
    assert written([2**53 + 1, 0.5], _as_dicts) is None
    assert written([0.5, 2**53 + 1], _as_frames) is None


# Offsets


@pytest.mark.parametrize("dtype", [object, None])
@pytest.mark.parametrize("estimator", [EventSerializer(), EventAggregator()])
def test_a_model_fitted_in_winter_reads_summer(estimator, dtype):
    def users(*hours):
        times = [dt.datetime(2024, 6, 1, 12, tzinfo=_hours(hour)) for hour in hours]
        table = pd.DataFrame({"user": range(len(hours)), "when": pd.Series(times, dtype=dtype), "amount": 1.0})
        return nest_events(table, user="user", time="when")

    winter, summer, both = users(1), users(2), users(1, 2)
    estimator.fit(winter)
    one_by_one = [np.asarray(estimator.transform(X))[0].tolist() for X in (winter, summer)]
    np.testing.assert_array_equal(np.asarray(estimator.transform(both)), np.array(one_by_one))


_OFFSET = pa.array([0], pa.timestamp("s", "+01:00"))


@pytest.mark.parametrize(
    "values",
    [_OFFSET, _OFFSET.dictionary_encode(), pa.ListArray.from_arrays([0, 1], _OFFSET)],
    ids=["times", "dictionary", "lists"],
)
def test_offsets_of_arrow_are_utc(values):
    structs = pa.StructArray.from_arrays([values], ["value"])
    X = pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(pa.ListArray.from_arrays([0, 1], structs))})
    assert "tz=UTC" in str(flatten_events(X).columns["value"].type)


def test_named_zones_are_kept():
    zoned = NOON.replace(tzinfo=BERLIN)
    assert written([zoned], _as_dicts) == written([pd.Timestamp(zoned)], _as_dicts) == ["value\n2024-01-01 12:00:00"]
    assert written([zoned.replace(tzinfo=_hours(1))], _as_dicts) == ["value\n2024-01-01 11:00:00"]


# Series and tensors


def _sequences():
    torch = pytest.importorskip("torch")
    pl = pytest.importorskip("polars", reason="needs polars")
    return {
        "series": [pd.Series([1, 2]), pd.Series([], dtype=int)],
        "index": [pd.Index([1, 2]), pd.Index([])],
        "nullable": [pd.array([1, 2], "Int64"), pd.array([], "Int64")],
        "tensors": [torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64)],
        "polars": [pl.Series([1, 2]), pl.Series([])],
        "arrow": [pa.array([1, 2]), pa.chunked_array([[]])],
        "others": [deque([1, 2]), range(0)],
    }


@pytest.mark.parametrize("kind", ["series", "index", "nullable", "tensors", "polars", "arrow", "others"])
def test_cells_may_be_any_sequence(kind):
    cells = _sequences()[kind]
    flat = flatten_events(pd.DataFrame({"code": _series([*cells, None])}), ["code"])
    assert flat.columns["code"].to_pylist() == [1, 2]
    assert flat.lengths.tolist() == [2, 0, 0]
    assert written([cells[0]], _as_dicts) == written([[1, 2]], _as_dicts)


def test_a_tensor_that_numpy_cannot_read_is_named():
    torch = pytest.importorskip("torch")
    X = pd.DataFrame({"code": _series([torch.tensor([1.0], dtype=torch.bfloat16)])})
    with pytest.raises(TypeError, match=r"neither lists nor dataframes, first in row 0.*bfloat16"):
        flatten_events(X, ["code"])
