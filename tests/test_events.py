"""Tables of events and dataframes of users: nesting, its inverse, and reading every kind of dataframe."""

import datetime as dt
import re
from decimal import Decimal
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from scipy import sparse
from sklearn.base import clone

from skllm4es import EventSerializer, nest_events, unnest_events
from skllm4es.baselines import BagOfEvents, EventAggregator
from skllm4es.events._flat import flatten_events


def _table(**columns):
    """Long table of three users' events, out of order."""
    return pd.DataFrame({"user": [7, 3, 7, 5], "time": [20, 10, 10, 10], **columns})


def _lists(X, events="events"):
    """Read the events back as lists of dicts, through the flat columns."""
    flat = flatten_events(X, events)
    rows = [
        dict(zip(flat.columns, row, strict=True))
        for row in zip(*(column.to_pylist() for column in flat.columns.values()), strict=True)
    ]
    return [rows[start:end] for start, end in zip(flat.offsets[:-1], flat.offsets[1:], strict=True)]


# nest_events


def test_users_are_sorted_and_their_events_are_sorted_by_time():
    X = nest_events(_table(amount=[1.0, 2.0, 3.0, 4.0]), user="user", time="time")
    assert list(X.index) == [3, 5, 7]
    assert X.index.name == "user"
    assert _lists(X)[2] == [{"time": 10, "amount": 3.0}, {"time": 20, "amount": 1.0}]


def test_events_at_equal_times_keep_the_order_of_the_table():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user": rng.integers(0, 5, 1000), "time": rng.integers(0, 3, 1000), "row": range(1000)})
    rows = unnest_events(nest_events(table, user="user", time="time"))
    assert_frame_equal(rows, table.sort_values(["user", "time"], kind="stable", ignore_index=True))


def test_columns_chooses_and_orders_the_fields():
    X = nest_events(_table(a=1, b=2), user="user", time="time", columns=["b", "a"])
    assert list(flatten_events(X).columns) == ["b", "a"]


def test_a_column_that_is_not_kept_may_hold_anything():
    X = nest_events(_table(junk=[1, "x", object(), None]), user="user", time="time", columns=["time"])
    assert list(flatten_events(X).columns) == ["time"]


def test_the_table_is_not_changed():
    table = _table(city=pd.Categorical(["a", "b", "a", "b"]), amount=[1.0, np.nan, 2.0, 3.0])
    before = table.copy(deep=True)
    nest_events(table, user="user", time="time")
    assert_frame_equal(table, before)


VALUES = {
    "bool": [True, False, True, False],
    "int8": np.array([1, 2, 3, 4], dtype="int8"),
    "uint64": np.array([1, 2, 3, 2**64 - 1], dtype="uint64"),
    "float32": np.array([0.1, np.nan, 3, 4], dtype="float32"),
    "strings": ["a", None, "ü", ""],
    "dates": [dt.date(2024, 1, day) for day in range(1, 5)],
    "times of day": [dt.time(hour) for hour in range(4)],
    "decimals": [Decimal("1.50"), Decimal("-2.00"), None, Decimal("0.01")],
    "seconds": pd.to_datetime([1, 2, 3, 4], unit="s").astype("datetime64[s]"),
    "nanoseconds": pd.to_datetime([1, 2, 3, 4]).astype("datetime64[ns]"),
    "time zone": pd.to_datetime([1, 2, 3, 4], unit="s", utc=True).tz_convert("Europe/Berlin"),
    "timedelta": pd.to_timedelta([1, 2, 3, 4], unit="s"),
    "nullable int": pd.array([1, None, 3, 4], dtype="Int64"),
    "nullable bool": pd.array([True, None, False, True], dtype="boolean"),
}


@pytest.mark.parametrize("kind", VALUES)
def test_unnest_restores_values_and_dtypes(kind):
    table = _table(value=VALUES[kind])
    expected = table.sort_values(["user", "time"], ignore_index=True)
    result = unnest_events(nest_events(table, user="user", time="time"))
    assert_frame_equal(result, expected)


@pytest.mark.parametrize("values", [["b", "a", "b", None], [2, 1, 2, 1]])
def test_categoricals_come_back_as_their_values(values):
    result = unnest_events(nest_events(_table(value=pd.Categorical(values)), user="user", time="time"))
    expected = _table(value=values).sort_values(["user", "time"], ignore_index=True)
    assert_frame_equal(result, expected)


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "string[pyarrow]"])
def test_arrow_dtypes_are_read(dtype):
    table = _table(value=pd.array(["1", "2", "3", "4"], dtype="string[pyarrow]").astype(dtype))
    result = unnest_events(nest_events(table.convert_dtypes(dtype_backend="pyarrow"), user="user", time="time"))
    assert result["value"].astype(str).tolist() == ["2", "4", "3", "1"]


TIMES = {
    "floats": [2.5, -0.5, -1.0, 1.0],
    "negative integers": np.array([100, -128, -100, 0], dtype="int8"),
    "whole range of int64": [2**63 - 1, -(2**63), -(2**63), 0],
    "large uint64": np.array([2**64 - 1, 0, 2**63, 1], dtype="uint64"),
    "strings": ["2024-02", "2024-01", "2024-01", "2023"],
    "dates": [dt.date(2024, 2, 1), dt.date(1969, 1, 1), dt.date(1969, 1, 1), dt.date(2024, 1, 1)],
    "times of day": [dt.time(20), dt.time(3), dt.time(4), dt.time(5)],
    "nanoseconds": pd.to_datetime(["2262-01-01", "1700-01-01", "1700-01-01", "2024-01-01"]).astype("datetime64[ns]"),
    # The first and the third are both 02:30 on the clock.
    "time zone": pd.to_datetime([1729992600, 0, 1729989000, 0], unit="s", utc=True).tz_convert("Europe/Berlin"),
    "timedelta": pd.to_timedelta([4, 3, 2, 1], unit="s"),
    "decimals": [Decimal("10.5"), Decimal("2"), Decimal("9.5"), Decimal("1")],
    "booleans": [True, False, False, True],
    "ordered categories": pd.Categorical(["low", "low", "high", "low"], ["high", "low"], ordered=True),
    "bins": pd.cut([10.5, 0, 9.5, 1], [0, 9, 10, 11], include_lowest=True),
    "bins without order": pd.cut([10.5, 0, 9.5, 1], [0, 9, 10, 11], include_lowest=True).as_unordered(),
    "intervals": pd.arrays.IntervalArray.from_tuples([(10, 11), (2, 3), (9, 10), (1, 2)]),
    "months to the year 10000": pd.PeriodIndex.from_ordinals([96360, 0, 96348, 5], freq="M"),
    "sparse numbers": pd.arrays.SparseArray([10, 0, 9, 0]),
}  # fmt: skip


@pytest.mark.parametrize("kind", TIMES)
def test_any_ordered_type_is_a_time(kind):
    table = pd.DataFrame({"user": [7, 3, 7, 5], "time": TIMES[kind], "row": range(4)})
    X = nest_events(table, user="user", time="time")
    assert flatten_events(X).columns["row"].to_pylist() == [1, 3, 2, 0]


USERS = {
    "floats": [2.5, -1.0, 2.5, 0.0],
    "strings": ["c", "a", "c", "b"],
    "categories": pd.Categorical(["c", "a", "c", "b"], ["c", "unused", "b", "a"]),
    "dates": [dt.date(2024, 1, 3), dt.date(2024, 1, 1), dt.date(2024, 1, 3), dt.date(2024, 1, 2)],
    "nullable integers": pd.array([7, 3, 7, 5], dtype="Int64"),
}


@pytest.mark.parametrize("kind", USERS)
def test_any_ordered_type_is_a_user(kind):
    table = pd.DataFrame({"user": USERS[kind], "time": [20, 10, 10, 10], "row": range(4)})
    X = nest_events(table, user="user", time="time")
    assert list(X.index) == sorted(set(USERS[kind]))
    assert flatten_events(X).columns["row"].to_pylist() == [1, 3, 2, 0]


def test_chunks_with_different_dictionaries_are_read():
    chunks = [pa.array(values).dictionary_encode() for values in (["b", "a"], ["c", "a"])]
    column = pa.chunked_array(chunks)
    X = nest_events(pa.table({"user": column, "time": [1, 2, 3, 0], "code": column}), user="user", time="time")
    assert list(X.index) == ["a", "b", "c"]
    assert [[event["code"] for event in events] for events in _lists(X)] == [["a", "a"], ["b"], ["c"]]


def test_a_dictionary_that_repeats_a_value_does_not_split_a_user():
    users = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), pa.array(["a", "b", "a"]))
    assert list(nest_events(pa.table({"user": users, "time": [1, 2, 3]}), user="user", time="time").index) == ["a", "b"]


def test_a_table_without_events_gives_no_users():
    X = nest_events(_table(amount=1.0)[:0], user="user", time="time")
    assert len(X) == 0
    assert list(flatten_events(X).columns) == ["time", "amount"]


def test_a_table_with_one_event_gives_one_user():
    X = nest_events(_table()[:1], user="user", time="time")
    assert _lists(X) == [[{"time": 20}]]


def test_polars_tables_give_polars_frames():
    pl = pytest.importorskip("polars")
    table = pl.DataFrame(_table(city=["a", None, "b", "a"]))
    X = nest_events(table, user="user", time="time")
    assert isinstance(X, pl.DataFrame)
    assert X["user"].to_list() == [3, 5, 7]
    assert unnest_events(X).equals(table.sort(["user", "time"]))


def test_events_without_a_time_keep_the_order_of_the_table():
    X = nest_events(_table(row=range(4)), user="user")
    assert [[event["row"] for event in events] for events in _lists(X)] == [[1], [3], [0, 2]]
    assert list(flatten_events(X).columns) == ["time", "row"]
    assert_frame_equal(nest_events(_table(row=range(4)), user="user", time=None), X)


def test_zero_has_no_sign_in_a_user():
    for zeros in (np.array([0.0, -0.0]), pa.array([0.0, -0.0], pa.float32()).dictionary_encode()):
        assert list(nest_events(pa.table({"user": zeros, "row": [1, 2]}), user="user").index) == [0.0]


@pytest.mark.parametrize("polars", [False, True])
def test_several_columns_identify_a_user(polars):
    pl = pytest.importorskip("polars", reason="needs polars") if polars else None
    table = pd.DataFrame({"bank": list("babab"), "client": [1, 2, 1, 2, 1], "time": [5, 4, 3, 2, 1]})
    X = nest_events(pl.DataFrame(table) if polars else table, user=["bank", "client"], time="time")
    users = X[["bank", "client"]].rows() if polars else X.index.to_list()
    assert dict(zip(users, [[e["time"] for e in events] for events in _lists(X)], strict=True)) == {
        ("a", 2): [2, 4],
        ("b", 1): [1, 3, 5],
    }
    if polars:
        with pytest.warns(
            UserWarning, match=r"leaves out the columns \['client'\] of X\. .* user=\['bank', 'client'\]"
        ):
            assert unnest_events(X).columns == ["bank", "time"]
    long = unnest_events(X, user=["bank", "client"])
    assert list(long.columns) == ["bank", "client", "time"]
    again = nest_events(long, user=["bank", "client"], time="time")
    assert again.equals(X)


_LEVELS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 9)), max_size=20)


@settings(deadline=None)
@given(rows=_LEVELS, names=st.sampled_from([["bank", "client"], [None, 0], ["", "client"]]))
def test_a_multi_index_is_unnested_to_one_column_per_level(rows, names):
    table = pd.DataFrame(rows, columns=["x", "y", "time"]).astype({"x": str, "y": "int64", "time": "int64"})
    X = nest_events(table, user=["x", "y"], time="time").rename_axis(names)
    long = unnest_events(X)
    called = ["level_0" if name is None else str(name) for name in names]
    expected = table.sort_values(["x", "y", "time"], ignore_index=True)
    assert long.astype(object).equals(expected.set_axis([*called, "time"], axis=1).astype(object))
    again = nest_events(long, user=called, time="time")
    assert again.index.to_list() == X.index.to_list()
    assert _lists(again) == _lists(X)


def test_the_levels_of_a_multi_index_may_be_renamed_all_together():
    X = nest_events(_table(bank="a"), user=["bank", "user"], time="time")
    assert list(unnest_events(X, user=["b", "u"]).columns) == ["b", "u", "time"]
    with pytest.raises(
        ValueError, match=r"has 2 levels, \['bank', 'user'\], but user names 1: \['b'\]. Name each level"
    ):
        unnest_events(X, user="b")
    with pytest.raises(ValueError, match="already have a field 'b'"):
        unnest_events(X, user=["b", "b"])


def test_column_names_may_be_integers():
    table = pd.DataFrame([[7, 20, 1.5], [3, 10, 2.5]])
    X = nest_events(table, user=0, time=1, columns=[2])
    assert _lists(X) == [[{"2": 2.5}], [{"2": 1.5}]]
    assert list(unnest_events(X).columns) == ["0", "2"]
    assert list(unnest_events(X.rename_axis(0), user=5).columns) == ["5", "2"]
    assert list(unnest_events(X.rename_axis(0)).columns) == ["0", "2"]
    lists = pd.DataFrame({0: [[1, 2]], 1: [["a", "b"]]})
    assert list(unnest_events(lists, events=[0, 1]).columns) == ["user", "0", "1"]
    assert list(unnest_events(pd.DataFrame({0: [[{"a": 1}]]}), events=0).columns) == ["user", "a"]


SORTED_LIKE_TIME = {
    "ISO dates": ["2024-02-01", "2023-12-31"],
    "ISO dates of several lengths": ["2024-02", "2023", "2024-01-31 10:00", "2024-01-31 10:00:00.5"],
    "with a zone": ["2024-01-31T10:00:00Z", "2024-01-31T09:00:00Z"],
    "compact": ["20240131", "20231231T1015"],
    "times of day": ["09:30", "10:00"],
    "numbers of equal length": ["0002", "0001"],
    "words": ["b", "a"],
}
NOT_SORTED_LIKE_TIME = {
    "days first": ["10.02.2024", "09.01.2024"],
    "months first": ["02/10/2023", "01/09/2024"],
    "without zeros": ["2024-2-1", "2024-10-1"],
    "numbers": ["10", "9"],
    "offsets": ["2024-01-31T10:00:00+01:00", "2024-01-31T10:00:00+02:00"],
    "two separators": ["2024-01-31 10:00:00", "2024-01-31T09:00:00"],
    "Z behind fractions": ["2024-01-31T10:00:00Z", "2024-01-31T10:00:00.5Z"],
    "names": ["January 2", "February 1"],
    "numbers of four digits and fewer": ["950", "1020", "999"],
    "numbers of six digits and fewer": ["999999", "1000"],
    "days or numbers": ["20240131", "2023"],
}


@pytest.mark.parametrize("texts", SORTED_LIKE_TIME.values(), ids=SORTED_LIKE_TIME)
def test_texts_that_sort_in_the_order_of_time_are_silent(texts):
    nest_events(pd.DataFrame({"user": 1, "time": texts}), user="user", time="time")


@pytest.mark.parametrize("dtype", ["str", "category"])
@pytest.mark.parametrize("texts", NOT_SORTED_LIKE_TIME.values(), ids=NOT_SORTED_LIKE_TIME)
def test_times_as_texts_warn_if_they_may_sort_otherwise(texts, dtype):
    table = pd.DataFrame({"user": 1, "time": pd.Series(texts, dtype=dtype)})
    with pytest.warns(
        UserWarning, match=rf"column 'time' are texts .* from '{re.escape(min(texts))}' to .*pd.to_datetime"
    ):
        nest_events(table, user="user", time="time")


def test_texts_with_an_order_of_their_own_do_not_warn():
    weeks = pd.Categorical(["week 10", "week 9"], ["week 9", "week 10"], ordered=True)
    nest_events(pd.DataFrame({"user": 1, "time": weeks}), user="user", time="time")


@pytest.mark.parametrize("n_users", [1, 2])
def test_nested_events_survive_parquet(tmp_path, n_users):
    users = ["user", "bank"][:n_users]
    X = nest_events(_table(bank="a", city=["x", None, "y", "x"]), user=users, time="time")
    X.to_parquet(tmp_path / "X.parquet")
    again = pd.read_parquet(tmp_path / "X.parquet", dtype_backend="pyarrow")
    assert again.index.to_list() == X.index.to_list()
    assert _lists(again) == _lists(X)
    assert list(EventSerializer().fit_transform(again)["text"]) == list(EventSerializer().fit_transform(X)["text"])


# What nest_events rejects


@pytest.mark.parametrize("role", ["user", "time"])
def test_a_key_that_is_only_in_the_index_is_found_there(role):
    table = _table().set_index([role])
    with pytest.raises(
        ValueError, match=rf"'{role}' is not a column.*'{role}' is in its index: pass table.reset_index"
    ):
        nest_events(table, user="user", time="time")


@pytest.mark.parametrize(("user", "problem"), [([], "names no column"), (["user", "user"], "user names 'user' more")])
def test_users_that_cannot_be_chosen_are_an_error(user, problem):
    with pytest.raises(ValueError, match=problem):
        nest_events(_table(), user=user)


def test_all_problems_with_columns_are_in_one_message():
    with pytest.raises(ValueError, match=r"user 'id' is not.*time 'when' is not.*columns: 'x' is not"):
        nest_events(_table(), user="id", time="when", columns=["x"])


@pytest.mark.parametrize("repeated", [pd.DataFrame([[1, 2, 3]], columns=["user", "time", "time"])])
@pytest.mark.parametrize("convert", [lambda frame: frame, lambda frame: pa.table([[1], [2], [3]], list(frame.columns))])
def test_a_repeated_column_is_an_error(repeated, convert):
    with pytest.raises(ValueError, match="'time' appears 2 times"):
        nest_events(convert(repeated), user="user", time="time")


@pytest.mark.parametrize("role", ["user", "time"])
@pytest.mark.parametrize(
    "values",
    [[1.0, np.nan, 2.0, np.nan], ["a", None, "b", None], pd.to_datetime(["2024", None, "2025", None]), [None] * 4],
    ids=["NaN", "None", "NaT", "all None"],
)
def test_an_event_without_user_or_time_is_an_error(role, values):
    table = _table().assign(**{role: values})
    missing = pd.isna(pd.Series(values)).sum()
    with pytest.raises(ValueError, match=rf"{missing} of 4 events have no {role} \(column '{role}'.*Drop these rows"):
        nest_events(table, user="user", time="time")


@pytest.mark.parametrize("role", ["user", "time"])
def test_nan_in_an_arrow_table_is_a_missing_user_or_time(role):
    table = pa.table({"user": [1.0, 2.0], "time": [1.0, 2.0]} | {role: pa.array([1.0, np.nan])})
    with pytest.raises(ValueError, match=f"1 of 2 events have no {role}"):
        nest_events(table, user="user", time="time")


def test_a_time_without_an_order_is_an_error():
    with pytest.raises(TypeError, match="'time' cannot be put in order: they are of type struct"):
        nest_events(pa.table({"user": [1, 1], "time": [{"a": 1}, {"a": 2}]}), user="user", time="time")


#: Columns without a type in Arrow, and what their values become.
AS_TEXTS = {
    "bins": (pd.cut([1.5, 0, np.nan, 1], [0, 1, 2]), ["(1, 2]", None, None, "(0, 1]"]),
    "intervals": (pd.interval_range(0, 4), ["(0, 1]", "(1, 2]", "(2, 3]", "(3, 4]"]),
    "months": (pd.period_range("2024-11", periods=4, freq="M"), ["2024-11", "2024-12", "2025-01", "2025-02"]),
    "sparse integers": (pd.arrays.SparseArray([0, 0, 7, 0]), [0, 0, 7, 0]),
    "sparse floats": (pd.arrays.SparseArray([1.5, np.nan, 0, 7]), [1.5, None, 0, 7]),
    "tuples as categories": (pd.Categorical([(1, 2), (3,), (1, 2), None]), [[1, 2], [3], [1, 2], None]),
    "NaN decimals": (
        [Decimal("1.5"), Decimal("NaN"), Decimal("sNaN"), None],
        [Decimal("1.5"), *[None] * 3],
    ),
}


@pytest.mark.parametrize("kind", AS_TEXTS)
def test_types_that_only_pandas_has_become_the_nearest_kind(kind):
    values, expected = AS_TEXTS[kind]
    table = pd.DataFrame({"user": 1, "time": range(4), "value": values})
    for X in (nest_events(table, user="user", time="time"), _objects(table)):
        assert flatten_events(X).columns["value"].to_pylist() == expected


UNHELD = {
    "complex": (np.array([1, 2, 3, 4j]), r"complex128"),
    "another byte order": (np.array([1, 2, 3, 4], dtype=">i4"), ">i4"),
    "sparse complex": (pd.arrays.SparseArray([0, 0, 1j, 0]), r"Sparse\[complex128, \w+\]"),
    "complex categories": (pd.Categorical([1j, 1j, 2j, 1j]), "category"),
    "numbers and texts": ([1, "x", 2, "y"], "object, from row 1 on, which holds 'x'"),
    "infinite decimals": (
        [Decimal(1), Decimal(2), Decimal("-Infinity"), Decimal(3)],
        r"object, from row 2 on, which holds Decimal\('-Infinity'\)",
    ),
    "huge integers": ([1, 2, 3, 2**64], f"object, from row 3 on, which holds {2**64}"),
}
if np.dtype(np.longdouble) != np.float64:
    UNHELD["long doubles"] = (np.array([1, 2, 3, 4], dtype=np.longdouble), str(np.dtype(np.longdouble)))
REMEDY = r"\. Convert them to numbers, times or strings, all of one type, for example with astype\(str\)"


@pytest.mark.parametrize("role", ["user", "time", "value"])
@pytest.mark.parametrize("kind", UNHELD)
def test_a_column_that_arrow_cannot_hold_is_named_with_its_type(kind, role):
    values, seen = UNHELD[kind]
    table = pd.DataFrame({"user": 1, "time": range(4), "value": 0}).assign(**{role: values})
    with pytest.raises(TypeError, match=rf"cannot hold '{role}' \({seen}\): .*{REMEDY}"):
        nest_events(table, user="user", time="time")


def test_all_columns_that_arrow_cannot_hold_are_in_one_message():
    with pytest.raises(TypeError, match=r"cannot hold 'a' \(complex128\): .*; 'b' \(object.*'x'\): "):
        nest_events(_table(a=1j, b=[1, "x", 2, 3]), user="user", time="time")


def test_a_polars_column_that_arrow_cannot_hold_is_named_with_its_type():
    pl = pytest.importorskip("polars")
    table = pl.DataFrame({"user": [1, 1], "time": [1, 2], "big": pl.Series([1, 2**100], dtype=pl.Int128)})
    with pytest.raises(TypeError, match=rf"cannot hold 'big' \(Int128\): .*{REMEDY}, or cast\(pl.String\) in polars"):
        nest_events(table, user="user", time="time")
    X = table.group_by("user").agg(events=pl.struct("time", "big"))
    with pytest.raises(TypeError, match=rf"cannot hold 'events' \(List\(Struct\(.*'big': Int128.*{REMEDY}"):
        flatten_events(X)
    with pytest.raises(TypeError, match=rf"cannot hold 'big' \(Int128\): .*{REMEDY}"):
        unnest_events(pl.DataFrame({"big": table["big"], "events": [[{"a": 1}], [{"a": 2}]]}))


def test_polars_objects_are_read_as_values_not_addresses():
    pl = pytest.importorskip("polars")
    table = pl.DataFrame({"user": pl.Series(["b", "a"], dtype=pl.Object), "time": [1, 2]})
    assert nest_events(table, user="user", time="time")["user"].to_list() == ["a", "b"]


def test_the_error_for_a_lone_surrogate_in_a_name_does_not_blame_the_values():
    table = _table(name=pd.Series(list("abcd"), dtype=object))
    table.columns = pd.Index(["user", "time", "\ud800"], dtype=object)
    with pytest.raises(TypeError, match=r"cannot hold '\\ud800' \(object\): 'utf-8' codec can't encode"):
        nest_events(table, user="user", time="time")


def test_a_name_that_polars_cannot_export_is_an_error():
    pl = pytest.importorskip("polars")
    table = pl.DataFrame({"user": [1], "time": [1], "a\0": [1]})
    with pytest.raises(TypeError, match=r"cannot hold 'a\\x00' \(Int64\): .*the name of a field holds NUL"):
        nest_events(table, user="user", time="time")


def test_string_views_are_strings():
    views = pa.array(["b", "a", "b", "c"], pa.string_view())
    for column in (views, pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3]), views)):
        table = pa.table({"user": column, "time": column, "row": range(4), "value": column})
        long = unnest_events(nest_events(table, user="user", time="time"))
        assert long["row"].to_list() == [1, 0, 2, 3]
        assert long["user"].to_list() == long["time"].to_list() == long["value"].to_list() == ["a", "b", "b", "c"]


def test_an_arrow_type_whose_rows_cannot_be_taken_is_named():
    values = pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array([7, 8]))
    with pytest.raises(TypeError, match="The field 'value' of the events: values of type run_end_encoded"):
        nest_events(pa.table({"user": [2, 1], "time": [1, 2], "value": values}), user="user", time="time")


def test_only_tables_are_nested():
    with pytest.raises(TypeError, match="got list"):
        nest_events([{"user": 1, "time": 2}], user="user", time="time")


def test_a_lazy_table_is_not_collected():
    pl = pytest.importorskip("polars")
    lazy = pl.LazyFrame({"user": [1], "time": [2]})
    for call in (partial(nest_events, user="user", time="time"), flatten_events):
        with pytest.raises(TypeError, match=r"got LazyFrame.* has no rows until it is collected: pass it.collect\(\)"):
            call(lazy)


def test_a_column_of_events_is_asked_for_as_a_dataframe():
    with pytest.raises(TypeError, match=r"got Series.* Pass a single column as a dataframe: it.to_frame\(\)"):
        flatten_events(pd.Series([[{"a": 1}]], name="events"))


# Properties

_FIELDS = st.fixed_dictionaries(
    {
        "user": st.integers(-3, 3),
        "time": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2),
        "text": st.none() | st.text(st.characters(codec="utf-8"), max_size=3),
        "amount": st.none() | st.floats(allow_nan=False),
    }
)
_SCHEMA = pa.schema({"user": pa.int64(), "time": pa.int64(), "text": pa.string(), "amount": pa.float64()})


@settings(deadline=None)
@given(rows=st.lists(_FIELDS, max_size=30))
def test_unnesting_gives_the_stably_sorted_table(rows):
    table = pa.Table.from_pylist(rows, _SCHEMA)
    result = unnest_events(nest_events(table, user="user", time="time"))
    expected = sorted(rows, key=lambda row: (row["user"], row["time"]))
    assert pa.Table.from_pandas(result, schema=_SCHEMA, preserve_index=False).to_pylist() == expected


@settings(deadline=None)
@given(rows=st.lists(_FIELDS, max_size=30), start=st.integers(0, 7), stop=st.integers(0, 7))
def test_flattening_a_slice_gives_the_slice_of_the_whole(rows, start, stop):
    X = nest_events(pa.Table.from_pylist(rows, _SCHEMA), user="user", time="time")
    assert _lists(X.iloc[start:stop]) == _lists(X)[start:stop]


@settings(deadline=None)
@given(rows=st.lists(_FIELDS, min_size=1, max_size=30), data=st.data())
def test_flattening_selected_users_gives_their_events(rows, data):
    X = nest_events(pa.Table.from_pylist(rows, _SCHEMA), user="user", time="time")
    X = pd.concat([X[:2], X[2:]])
    chosen = data.draw(st.lists(st.integers(0, len(X) - 1), max_size=9))
    whole = _lists(X)
    assert _lists(X.iloc[chosen]) == [whole[i] for i in chosen]


# Reading every kind of dataframe

USERS_EVENTS = [
    [{"code": 1, "text": "a"}, {"code": None, "text": "ü"}],
    None,
    [],
    [{"code": 3, "text": None}],
]


def test_every_kind_gives_the_same_events(as_kind):
    X, events = as_kind(USERS_EVENTS)
    assert _lists(X, events) == [users or [] for users in USERS_EVENTS]


def test_every_kind_keeps_the_order_of_the_fields(as_kind):
    X, events = as_kind([[{"z": 1, "a": 2}]])
    assert list(flatten_events(X, events).columns) == ["z", "a"]


def test_every_kind_can_be_sliced(as_kind):
    X, events = as_kind(USERS_EVENTS)
    assert _lists(X[1:], events) == [[], [], USERS_EVENTS[3]]


def test_every_kind_can_have_no_users(as_kind):
    X, events = as_kind(USERS_EVENTS)
    assert _lists(X[:0], events) == []


def test_every_kind_can_have_only_users_without_events(as_kind):
    X, events = as_kind(USERS_EVENTS)
    assert _lists(X[1:3], events) == [[], []]


TYPED = {
    "float32": pa.array([0.1, None], pa.float32()),
    "time zone": pa.array([0, None], pa.timestamp("us", "Europe/Berlin")),
    "date": pa.array([0, None], pa.date32()),
    "bool": pa.array([True, None]),
    "categories": pa.array(["a", None]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", TYPED)
def test_every_kind_keeps_the_values_of_every_type(as_kind, kind):
    values = TYPED[kind]
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), pa.StructArray.from_arrays([values], ["value"]))
    column = flatten_events(*as_kind(lists)).columns["value"]
    rounded = [value if kind != "float32" else value and np.float32(value) for value in column.to_pylist()]
    assert rounded == [np.float32(0.1) if kind == "float32" else values[0].as_py(), None]


def test_every_kind_unnests_to_the_same_table(as_kind):
    X, events = as_kind(USERS_EVENTS, index=pd.Index([5, 6, 7, 8]))
    table = unnest_events(X, events=events)
    assert list(table.columns)[1:] == ["code", "text"]
    assert table[table.columns[0]].to_list() == [5, 5, 8]


def test_reading_changes_nothing(as_kind):
    X, events = as_kind(USERS_EVENTS)
    before = X.clone() if as_kind.is_polars else X.copy(deep=True)
    flatten_events(X, events)
    if as_kind.is_polars:
        assert X.equals(before)
    else:  # As texts, because cells that are dataframes cannot be compared.
        assert X.map(str).equals(before.map(str))


def _arrow_frame(array):
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(array)})


@pytest.mark.parametrize("type_", ["list", "large_list", "list_view", "large_list_view", "fixed"])
def test_every_arrow_list_is_read(type_):
    struct = pa.struct({"a": pa.int64()})
    type_ = (
        pa.list_(struct, 2)
        if type_ == "fixed"
        else getattr(pa, type_.replace("list", "list_", 1) if type_ == "list" else type_)(struct)
    )
    array = pa.array([None, [{"a": 1}, {"a": 2}]], type_)
    assert _lists(_arrow_frame(array)) == [[], [{"a": 1}, {"a": 2}]]


def test_a_null_event_has_every_field_missing():
    X = _arrow_frame(pa.array([[{"a": 1, "b": "x"}, None]]))
    assert _lists(X) == [[{"a": 1, "b": "x"}, {"a": None, "b": None}]]


def test_hidden_events_of_a_null_user_are_not_read():
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2]), pa.array([{"a": 1}, {"a": 2}]), mask=pa.array([True, False]))
    assert _lists(_arrow_frame(lists)) == [[], [{"a": 2}]]


def _categories(prefix):
    table = pd.DataFrame({"user": range(100), "time": 0, "code": pd.Categorical([f"{prefix}{i}" for i in range(100)])})
    return nest_events(table, user="user", time="time", columns=["code"])


def test_concatenated_frames_share_one_dictionary():
    X = pd.concat([_categories("a"), _categories("b")])
    assert _lists(X)[99:101] == [[{"code": "a99"}], [{"code": "b0"}]]


def test_narrow_dictionaries_of_several_chunks_are_widened():
    chunks = [
        pa.ListArray.from_arrays(
            range(101), pa.array([f"{letter}{i}" for i in range(100)]).cast(pa.dictionary(pa.int8(), pa.string()))
        )
        for letter in "ab"
    ]
    X = pd.DataFrame({"code": pd.arrays.ArrowExtensionArray(pa.chunked_array(chunks))})
    assert _lists(X, ["code"])[99:101] == [[{"code": "a99"}], [{"code": "b0"}]]


# Object cells


def _objects(*cells, index=None):
    return pd.DataFrame({"events": pd.Series(list(cells), dtype=object, index=index)})


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, [], (), np.array([], dtype=object)])
def test_an_object_cell_without_events_is_a_user_without_events(missing):
    assert _lists(_objects([{"a": 1}], missing)) == [[{"a": 1}], []]


@pytest.mark.parametrize("missing", [None, np.nan, [], pd.DataFrame()])
def test_a_user_without_events_may_be_mixed_with_dataframes(missing):
    assert _lists(_objects(missing, pd.DataFrame({"a": [1]}))) == [[], [{"a": 1}]]


def test_keys_that_a_dict_lacks_are_missing():
    X = _objects([{"a": 1}, {"b": "x"}], [{"c": True, "a": 2.5}])
    assert _lists(X) == [
        [{"a": 1, "b": None, "c": None}, {"a": None, "b": "x", "c": None}],
        [{"a": 2.5, "b": None, "c": True}],
    ]


def test_columns_that_a_dataframe_lacks_are_missing():
    X = _objects(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": ["x"], "a": [2]}))
    assert _lists(X) == [[{"a": 1, "b": None}], [{"a": 2, "b": "x"}]]
    assert flatten_events(X).columns["a"].type == pa.int64()


def test_missing_values_of_every_kind_are_null_in_object_cells():
    X = _objects([{"a": np.nan, "b": pd.NA, "c": pd.NaT, "d": None}])
    assert _lists(X) == [[{"a": None, "b": None, "c": None, "d": None}]]


def test_dataframes_with_different_categories_are_read():
    frames = [pd.DataFrame({"a": pd.Categorical([f"{letter}{i}" for i in range(100)])}) for letter in "ab"]
    assert [user[0]["a"] for user in _lists(_objects(*frames))] == ["a0", "b0"]


def test_arrays_of_dicts_as_read_from_parquet_are_read():
    assert _lists(_objects(np.array([{"a": 1}, {"a": 2}], dtype=object))) == [[{"a": 1}, {"a": 2}]]


def test_object_cells_of_plain_lists_are_list_columns():
    X = pd.DataFrame({"a": [[1, 2], None], "b": [np.array(["x", "y"]), np.nan]})
    assert _lists(X, ["a", "b"]) == [[{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], []]


def test_polars_object_cells_are_read():
    pl = pytest.importorskip("polars")
    X = pl.DataFrame({"events": pl.Series([pl.DataFrame({"a": [1]}), None], dtype=pl.Object)})
    assert _lists(X) == [[{"a": 1}], []]


@pytest.mark.parametrize("garbage", ["text", 5, {"a": 1}])
def test_a_cell_that_holds_no_events_is_named(garbage):
    X = _objects([{"a": 1}], garbage, index=["ann", "bob"])
    with pytest.raises(
        TypeError, match=rf"first in row 'bob', which holds {re.escape(repr(garbage))} \({type(garbage).__name__}"
    ):
        flatten_events(X)


@pytest.mark.parametrize("garbage", [[5], [{"a": "text"}], [{"a": 1}, "text"], pd.DataFrame({"a": ["text"]})])
def test_a_cell_that_does_not_fit_the_cells_before_it_is_named(garbage):
    X = _objects([{"a": 1}], [{"a": 2}], garbage, [{"a": 3}], index=["ann", "bob", "cat", "dan"])
    with pytest.raises(TypeError, match=r"\(first in row 'ann'\) and .* \(first in row 'cat'\) do not form one column"):
        flatten_events(X)


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ([{"a": 1}, {"a": 1, "b": 1j}], rf"'b' \(object, from row 'bob' on, which holds 1j\): .*{REMEDY}"),
        ([{"a": 1, "b": Decimal("Infinity")}], rf"'b' \(object, from row 'bob' on, which holds Decimal\(.*{REMEDY}"),
        (pd.DataFrame({"a": [1], "b": [1j]}), rf"'b' \(complex128\): .*{REMEDY}"),
        ([{"a": "text"}], rf"'a' \(object, from row 'bob' on, which holds 'text'\): .*{REMEDY}"),
        ([5], rf"'events' .*: dict \(first in row 'ann'\) and int \(first in row 'bob'\).*{REMEDY}"),
        (pd.DataFrame({"a": ["text"]}), rf"'a' \(.*: integers .* and texts .*{REMEDY}"),
        (
            pd.DataFrame({"a": [1]}, index=pd.Index([5], name="at")),
            r"'bob' on.*its index 'at' is no field; make it one ",
        ),
        (
            pd.DataFrame({"a": [1]}, index=pd.to_datetime(["2024"])),
            r"its index of times is no field; .*reset_index\(\)",
        ),
    ],
)
def test_a_field_that_arrow_cannot_hold_is_named(cell, why):
    first = pd.DataFrame({"a": [1]}) if isinstance(cell, pd.DataFrame) else [{"a": 1}]
    with pytest.raises(TypeError, match=rf"'events' cannot form one column: .*{why}"):
        flatten_events(_objects(first, cell, first, index=["ann", "bob", "cat"]))


# What flatten_events rejects


def test_lists_of_one_user_must_have_the_same_length():
    X = pd.DataFrame({"a": [[1], [1, 2], []], "b": [[1], [1], [2]]}, index=["ann", "bob", "cat"])
    with pytest.raises(ValueError, match=r"for 2 of 3 users, first in row 'bob', where the lengths are: 'a' 2, 'b' 1"):
        flatten_events(X, ["a", "b"])


@pytest.mark.parametrize("column", [pd.array([1, 2]), ["a", "b"], pd.to_datetime(["2024", "2025"])])
def test_a_column_that_holds_no_lists_is_an_error(column):
    with pytest.raises(TypeError, match=r"must hold each user's events as a list"):
        flatten_events(pd.DataFrame({"events": column}))


def test_the_error_for_plain_lists_in_the_events_column_suggests_list_columns():
    with pytest.raises(TypeError, match=r"its lists hold int64, not structs.*events=\[NAME, ...\]"):
        flatten_events(_arrow_frame(pa.array([[1, 2]])))


@pytest.mark.parametrize(
    ("events", "problem"),
    [("other", "no column 'other'"), (["a", "a"], "'a' more than once"), ([], "no column"), ("twice", "2 columns")],
)
def test_a_column_that_cannot_be_chosen_is_an_error(events, problem):
    X = pd.DataFrame([[[], [], []]], columns=["a", "twice", "twice"])
    with pytest.raises(ValueError, match=problem):
        flatten_events(X, events)


def test_only_dataframes_are_read():
    with pytest.raises(TypeError, match="got list"):
        flatten_events([[{"a": 1}]])


def test_unnesting_does_not_confuse_users_with_a_field_of_the_same_name():
    X = pd.DataFrame({"events": [[{"user": 1}]]})
    with pytest.raises(ValueError, match="already have a field 'user'"):
        unnest_events(X)
    assert list(unnest_events(X, user="owner").columns) == ["owner", "user"]


# FlatEvents


@pytest.mark.parametrize("max_events", [1, 2, 5])
def test_latest_keeps_the_last_events_of_each_user(as_kind, max_events):
    users = [[{"a": i} for i in range(n)] for n in (3, 0, 1, 5)]
    flat = flatten_events(*as_kind(users)).latest(max_events)
    assert flat.lengths.tolist() == [min(len(user), max_events) for user in users]
    assert flat.columns["a"].to_pylist() == [event["a"] for user in users for event in user[-max_events:]]


@pytest.mark.parametrize("convert", [int, float, str, dt.date.fromordinal, Decimal])
def test_unsorted_users_are_those_whose_values_decrease(convert):
    times = [[1, 2, 2], [2, 1], [], None, [3, None, 2], [None, 1, None], [1]]
    users = [user and [{"t": time and convert(time)} for time in user] for user in times]
    assert flatten_events(_objects(*users)).unsorted_users("t").tolist() == [1, 4]


def test_nan_does_not_make_a_user_unsorted():
    lists = pa.array([[{"t": 1.0}, {"t": float("nan")}, {"t": 2.0}], [{"t": 2.0}, {"t": float("nan")}, {"t": 1.0}]])
    assert flatten_events(_arrow_frame(lists)).unsorted_users("t").tolist() == [1]


@pytest.mark.parametrize(
    ("index", "which"),
    [
        (pd.Index([7, 8, 9], name="order"), "index 'order' of the table"),
        (pd.date_range("2024-01-01", periods=3), "index of times of the table"),
    ],
)
def test_an_index_with_data_is_not_left_out_without_a_warning(index, which):
    table = pd.DataFrame({"user": [1, 1, 2], "item": ["x", "y", "x"]}, index=index)
    with pytest.warns(UserWarning, match=f"leaves out the {which}. Make it a column with .*reset_index"):
        nest_events(table, user="user")
    nest_events(table, user="user", columns=["item"])
    nest_events(table.reset_index(), user="user")
    nest_events(table.set_index("item", drop=False), user="user")


def test_all_levels_of_an_index_with_data_are_named():
    table = pd.DataFrame({"user": [1, 1], "item": ["x", "y"]}, index=pd.MultiIndex.from_tuples([(1, 2), (3, 4)]))
    with pytest.warns(UserWarning, match="leaves out the index of several levels of the table"):
        nest_events(table, user="user")
    with pytest.warns(UserWarning, match="leaves out the index 'shop', 'till' of the table"):
        nest_events(table.rename_axis(["shop", "till"]), user="user")


def test_an_index_of_times_beside_a_column_of_times_is_left_out():
    days = pd.date_range("2024-01-01", periods=2)
    table = pd.DataFrame({"user": [1, 1], "day": days, "item": ["x", "y"]}, index=days)
    assert len(nest_events(table, user="user", time="day")) == 1


def test_users_nested_by_time_are_sorted():
    assert flatten_events(nest_events(_table(), user="user", time="time")).unsorted_users("time").tolist() == []


def test_users_in_a_parquet_file_are_read_by_pandas_and_polars(tmp_path):
    pl = pytest.importorskip("polars")
    table = pd.DataFrame({"user": [1, 1, 2], "item": ["x", "y", "x"], "time": [1, 2, 3]})
    X = nest_events(table, user="user", time="time")
    X.to_parquet(tmp_path / "X.parquet")
    expected = EventSerializer().fit_transform(X)
    read = pd.read_parquet(tmp_path / "X.parquet", dtype_backend="pyarrow")
    assert read.index.tolist() == [1, 2]
    assert EventSerializer().fit_transform(read)["text"].to_list() == expected["text"].to_list()
    read = pl.read_parquet(tmp_path / "X.parquet")
    assert EventSerializer().fit_transform(read)["text"].to_list() == expected["text"].to_list()


@pytest.mark.parametrize("nested", [True, False])
def test_dictionaries_of_structs_are_refused_by_name(nested):
    """Arrow cannot flatten lists of them."""
    coded = pa.dictionary(pa.int32(), pa.struct([("a", pa.int64())]))
    type_ = pa.list_(pa.struct([("f", coded)]) if nested else coded)
    X = pd.DataFrame({"events": pd.Series(pa.nulls(1, type_), dtype=pd.ArrowDtype(type_))})
    with pytest.raises(TypeError, match=r"events.*dictionary<values=struct.*convert them to strings first"):
        EventSerializer(events="events" if nested else ["events"]).fit(X)


def test_a_cell_may_hold_a_categorical_without_values():
    X = pd.DataFrame({"events": pd.Series([None, pd.DataFrame({"a": pd.Categorical([])})], dtype=object)})
    assert EventSerializer().fit_transform(X)["text"].to_list() == ["a", "a"]


@pytest.mark.parametrize("empty", [[], [None], None])
@pytest.mark.parametrize(
    "estimator", [EventSerializer(), EventAggregator(), BagOfEvents(n_components=None)], ids=lambda e: type(e).__name__
)
def test_lists_that_are_all_empty_are_those_that_fit_saw(estimator, empty):
    """Events of one user, whose lists may all be empty, have no type of elements; the result is that among others."""

    def users(*tags):
        return pd.DataFrame({"events": [[{"tags": each, "n": 2}, {"tags": each, "n": 1}] for each in tags]})

    def rows(fitted, X):
        result = fitted.transform(X)
        return result.toarray() if sparse.issparse(result) else np.asarray(result)

    fitted = estimator.fit(users(["a"], ["b", "a"], [], None, [None]))
    alone, among = rows(fitted, users(empty)), rows(fitted, users(empty, ["a"]))
    np.testing.assert_array_equal(alone, among[:1])
    if isinstance(estimator, EventSerializer):
        texts = clone(estimator).fit(users(empty)).transform(users(["a", "b"]))["text"]
        assert "a" in texts.iloc[0]


@pytest.mark.parametrize("dtype", ["category", object, float])
def test_a_table_without_rows_has_no_users(dtype):
    table = pd.DataFrame({"user": pd.Series([], dtype=object), "time": pd.Series([], dtype=dtype)})
    assert nest_events(table, user="user", time="time").shape == (0, 1)
