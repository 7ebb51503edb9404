"""EventSerializer: the text that a user's events become."""

import datetime as dt
import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import KBinsDiscretizer, MinMaxScaler, SplineTransformer, StandardScaler

from skllm4es import EventSerializer, nest_events
from skllm4es.events._flat import flatten_events
from skllm4es.serialize import parse_events
from skllm4es.serialize._serialised import SEPARATORS, format_instruction

USERS = [
    [
        {"day": dt.date(2024, 3, 1), "mcc": 5411, "amount": 8.0, "note": "a, b"},
        {"day": dt.date(2024, 3, 2), "mcc": 4111, "amount": 2.5, "note": None},
    ],
    [],
    None,
    [{"day": dt.date(2024, 3, 5), "mcc": 5411, "amount": -0.25, "note": 'say "hi"\n'}],
]
TEXTS = [
    'day|mcc|amount|note\n2024-03-01, 5411, 8, "a, b"\n2024-03-02, 4111, 2.5, ',
    "day|mcc|amount|note",
    "day|mcc|amount|note",
    'day|mcc|amount|note\n2024-03-05, 5411, -0.25, "say ""hi""\n"',
]


@pytest.fixture
def X():
    # Explicit types, because older pyarrow sorts the keys of dicts.
    event = pa.struct([("day", pa.date32()), ("mcc", pa.int64()), ("amount", pa.float64()), ("note", pa.string())])
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(pa.array(USERS, pa.list_(event)))}, index=[4, 3, 2, 1])


def texts_of(X, **params):
    return EventSerializer(**params).fit_transform(X)["text"].to_list()


def test_every_kind_of_input_gives_the_same_texts(as_kind):
    X, events = as_kind(USERS)
    assert texts_of(X, events=events) == TEXTS


def test_columns_choose_fields_and_their_order(X):
    assert texts_of(X, columns=["amount", "mcc"])[0] == "amount|mcc\n8, 5411\n2.5, 4111"


def test_one_column_with_a_missing_value_is_not_an_empty_line(X):
    assert texts_of(X, columns=["note"])[0] == 'note\n"a, b"\n""'


def test_headers_rename_fields_in_the_header_line(X):
    assert texts_of(X, headers={"amount": "amount(rubles)"})[1] == "day|mcc|amount(rubles)|note"


@pytest.mark.parametrize("container", [dict, pd.Series])
def test_labels_replace_codes_and_leave_unknown_ones(X, container):
    with pytest.warns(UserWarning, match=r"no description for 1 values of 'mcc' \(1 different codes, such as 4111\)"):
        texts = texts_of(X, columns=["mcc"], labels={"mcc": container({5411: "Groceries, etc."})})
    assert texts[0] == 'mcc\n"Groceries, etc."\n4111'


def test_labels_of_a_field_that_is_not_written_are_ignored(X):
    assert texts_of(X, columns=["amount"], labels={"mcc": {}})[0] == "amount\n8\n2.5"


def test_a_given_text_replaces_codes_without_a_description(X):
    with pytest.warns(UserWarning, match="'other' was written"):
        texts = texts_of(X, columns=["mcc"], labels={"mcc": {5411: "Groceries"}}, unlabelled="other")
    assert texts[0] == "mcc\nGroceries\nother"


def test_missing_codes_stay_missing():
    X = pd.DataFrame({"events": [[{"mcc": 5411}, {"mcc": None}]]})
    assert (
        texts_of(X, labels={"mcc": {5411: "Groceries"}}, unlabelled="other", missing="none")[0]
        == "mcc\nGroceries\nnone"
    )


def test_codes_without_a_description_can_be_an_error(X):
    with pytest.raises(ValueError, match="labels has no description for 1 values of 'mcc'"):
        texts_of(X, labels={"mcc": {5411: "Groceries"}}, unlabelled="error")


def test_max_events_keeps_the_latest(X):
    assert texts_of(X, max_events=1)[0] == "day|mcc|amount|note\n2024-03-02, 4111, 2.5, "


def test_missing_values_are_written_as_requested(X):
    assert texts_of(X, columns=["note"], missing="unknown")[0] == 'note\n"a, b"\nunknown'


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 0.1, 1e-7, 1e20], ["1", "0.1", "1e-7", "1e+20"]),
        ([2**62, -1, 0, 5], ["4611686018427387904", "-1", "0", "5"]),
        ([float("nan"), 1.5, float("inf"), -0.5], ["", "1.5", "inf", "-0.5"]),
        ([True, False, True, True], ["true", "false", "true", "true"]),
        (pd.to_datetime(["2024-03-01 10:15:00"] * 4), ["2024-03-01 10:15:00"] * 4),
        (pd.to_datetime(["2024-03-01 10:15:00.25"] * 4), ["2024-03-01 10:15:00.25"] * 4),
        (pd.to_datetime([None, "2024-03-01"] * 2), ["", "2024-03-01 00:00:00"] * 2),
        (pd.to_timedelta([1, 60, 3600, None], unit="s"), ["1", "60", "3600", ""]),
        (pd.Categorical(["x", "y", None, "x"]), ["x", "y", "", "x"]),
        ([12345678901.0, -1e10, None, 1e15], ["12345678901", "-10000000000", "", "1000000000000000"]),
        (
            [Decimal("1E-10"), Decimal("12.50"), None, Decimal("0")],
            ["1e-10", "12.5", "", "0"],
        ),
        (pd.to_timedelta([200, -1, 0.5, None], unit="D"), ["17280000", "-86400", "43200", ""]),
        (pd.to_timedelta([1, -1_500_000_001, 10, None], unit="ns"), ["0.000000001", "-1.500000001", "0.00000001", ""]),
        ([dt.time(1), dt.time(1, 0, 0, 500_000), None, dt.time(10)], ["01:00:00", "01:00:00.5", "", "10:00:00"]),
    ],
    ids=[
        "floats",
        "integers",
        "not finite",
        "booleans",
        "times",
        "fractions",
        "no time",
        "durations",
        "categories",
        "codes as floats",
        "decimals",
        "long durations",
        "short durations",
        "times of day",
    ],
)
def test_values_are_written_in_their_shortest_exact_form(values, expected):
    table = pd.DataFrame({"user": [1, 2, 3, 4], "n": range(4), "value": values})
    X = nest_events(table, user="user", time="n")
    assert [parse_events(text).rows[0][1] for text in texts_of(X)] == expected


def test_output_keeps_index_and_library(X):
    pl = pytest.importorskip("polars", reason="needs polars")
    assert EventSerializer().fit_transform(X).index.to_list() == [4, 3, 2, 1]
    assert isinstance(EventSerializer().fit_transform(pl.from_pandas(X)), pl.DataFrame)


def test_feature_names(X):
    serializer = EventSerializer().fit(X)
    assert serializer.get_feature_names_out().tolist() == ["text"]
    assert serializer.feature_names_in_.tolist() == ["events"]


def test_clone_takes_every_parameter():
    params = dict.fromkeys(EventSerializer().get_params(), "given")
    assert clone(EventSerializer(**params)).get_params() == params


def test_users_without_events_may_lack_fields(X):
    texts = EventSerializer().fit(X).transform(pd.DataFrame({"events": [None, []]}))["text"].to_list()
    assert texts == ["day|mcc|amount|note"] * 2


def test_no_users_give_no_texts(X):
    assert EventSerializer().fit(X).transform(X.iloc[:0]).shape == (0, 1)


TEXT_VALUES = st.text(st.sampled_from(list(', |"\n\r\t;a0é\u2028😀'))) | st.text(
    st.characters(exclude_categories=["Cs"])
)
USERS_OF_ANY_TEXT = st.lists(
    st.lists(st.tuples(st.none() | TEXT_VALUES, st.integers(-(2**63), 2**63 - 1)), max_size=4), min_size=1, max_size=4
)


def is_instruction(text):
    try:
        format_instruction(text)
    except ValueError:
        return False
    return True


FORMS = st.fixed_dictionaries(
    {"missing": TEXT_VALUES, "instruction": TEXT_VALUES.filter(is_instruction)},
    optional={"columns": st.sampled_from([["s"], ["i"], ["i", "s"]]), "headers": st.builds(dict, s=TEXT_VALUES)},
)
SEPARATED = st.fixed_dictionaries(
    {"separator": st.sampled_from(SEPARATORS), "header_separator": st.sampled_from(SEPARATORS)}
)


@given(USERS_OF_ANY_TEXT, FORMS, SEPARATED | st.just({"compact": True}))
def test_parse_events_inverts_every_form_of_the_serializer(users, form, layout):
    assume(form.get("headers") != {"s": "i"})
    type_ = pa.list_(pa.struct({"s": pa.string(), "i": pa.int64()}))
    lists = pa.array([[{"s": s, "i": i} for s, i in events] for events in users], type_)
    X = pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)})
    serializer = EventSerializer(**form, **layout)
    parsed = [parse_events(text) for text in serializer.fit_transform(X)["text"]]
    header = [form.get("headers", {}).get(name, name) for name in serializer.columns_]
    assert all(table.header == header for table in parsed)
    assert [[dict(zip(serializer.columns_, row, strict=True)) for row in table.rows] for table in parsed] == [
        [
            {
                name: form["missing"] if value is None else str(value)
                for name, value in zip("si", event, strict=True)
                if name in serializer.columns_
            }
            for event in events
        ]
        for events in users
    ]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"events": "history"}, ValueError, r"X has no column 'history'; its columns are \['events'\]"),
        ({"columns": ["mcc", "amounts"]}, ValueError, r"columns names \['amounts'\], which the events do not have"),
        (
            {"labels": {"code": {}}, "headers": {"x": "y"}},
            ValueError,
            r"labels names \['code'\].*headers names \['x'\]",
        ),
        ({"max_events": 0}, ValueError, "max_events"),
        ({"columns": []}, ValueError, "nothing to write"),
        ({"headers": {"mcc": "day"}}, ValueError, r"would name \['day'\] more than once"),
        ({"labels": {"mcc": {}}, "formats": {"mcc": ".2f"}}, ValueError, "labels and formats both name 'mcc'"),
        ({"labels": {"mcc": {}}, "scalers": {"mcc": StandardScaler()}}, ValueError, "labels and scalers both name"),
        ({"formats": {"note": ".2f"}}, ValueError, r"formats\['note'\]: '.2f' is not a format for texts"),
        (
            {"formats": {"day": "%f"}},
            ValueError,
            r"formats\['day'\]: '%f' is not a format for dates.*'UNIT since previous",
        ),
        ({"scalers": {"note": StandardScaler()}}, ValueError, r"scalers\['note'\]: texts \(string\) cannot be scaled"),
        ({"columns": []}, ValueError, r"columns=\[\] names no field"),
        (
            {"scalers": {"amount": SplineTransformer()}},
            ValueError,
            r"must return one dense column.*an array of shape \(1, ",
        ),
        (
            {"scalers": {"amount": KBinsDiscretizer(2)}},
            ValueError,
            r"must return one dense column.*got a sparse matrix",
        ),
        ({"scalers": {"amount": 5}}, TypeError, "scalers.*must be a scikit-learn transformer"),
        ({"scalers": {"amount": StandardScaler}}, TypeError, "scalers.*must be a scikit-learn transformer"),
        ({"scalers": {"amount": KBinsDiscretizer(1, strategy="uniform")}}, ValueError, r"scalers\['amount'\]: "),
        ({"headers": {"mcc": 5}}, ValueError, r"headers\['mcc'\] must be a str; got 5"),
        ({"instruction": "a\n\nb"}, ValueError, "instruction must not"),
        ({"instruction": "a\n"}, ValueError, "instruction must not"),
        ({"instruction": 'the "'}, ValueError, "instruction must not"),
        ({"instruction": " "}, ValueError, "instruction must not"),
        ({"separator": "-"}, ValueError, "separator"),
        ({"compact": True, "separator": "|"}, ValueError, "compact=True has its own separators"),
        ({"time": "date"}, ValueError, r"time names \['date'\]"),
        ({"labels": {"mcc": 5}}, TypeError, r"labels\['mcc'\] must be a dict or a pandas Series; got int"),
        ({"labels": {"mcc": {1: 2}}}, TypeError, r"labels\['mcc'\]\[1\] must be a str; got 2"),
        ({"labels": {"mcc": pd.Series(["a", "b"], [1, 1])}}, ValueError, "more than one description for the code 1"),
    ],
)
def test_bad_parameters_are_rejected(X, params, error, message):
    with pytest.raises(error, match=message):
        EventSerializer(**params).fit(X)


@pytest.mark.parametrize("bad", [np.zeros((3, 2)), [[1, 2]], "text"])
def test_anything_but_a_dataframe_is_rejected(bad):
    with pytest.raises(TypeError, match="must be a pandas or polars dataframe"):
        EventSerializer().fit(bad)


def test_a_column_without_lists_is_rejected():
    with pytest.raises(TypeError, match="must hold each user's events as a list"):
        EventSerializer().fit(pd.DataFrame({"events": [1, 2]}))


def test_the_error_for_values_without_a_text_form_names_the_field():
    X = pd.DataFrame({"events": [[{"a": {"b": 1}}]]})
    with pytest.raises(TypeError, match="The field 'a' of the events: values of type struct"):
        EventSerializer().fit_transform(X)


def test_transform_before_fit_raises(X):
    with pytest.raises(NotFittedError):
        EventSerializer().transform(X)


def test_one_message_lists_all_changes_of_the_schema(X):
    serializer = EventSerializer().fit(X)
    other = pd.DataFrame({"events": [[{"mcc": "5411", "day": dt.datetime(2024, 3, 1), "extra": 1}]]})
    with pytest.raises(ValueError, match="differ from those that fit saw") as raised:
        serializer.transform(other)
    assert "fit saw ['amount', 'note'], which the events do not have" in str(raised.value)
    assert "'mcc' holds texts (string), where fit saw numbers" in str(raised.value)
    assert "'day' holds times (timestamp[us]), where fit saw dates" in str(raised.value)


@pytest.mark.parametrize(
    ("seen_by_fit", "new", "remedy"),
    [
        ("Europe/Berlin", "UTC", r"fit saw times of Europe/Berlin; .* dt.tz_convert\('Europe/Berlin'\)"),
        ("Europe/Berlin", None, r"fit saw times of Europe/Berlin; .* dt.tz_localize\('Europe/Berlin'\)"),
        (None, "UTC", r"fit saw times; .* dt.tz_localize\(None\)"),
    ],
)
def test_times_of_another_zone_say_how_to_convert_them(seen_by_fit, new, remedy):
    def users(zone):
        return pd.DataFrame({"events": [[{"at": pd.Timestamp("2024-03-01", tz=zone)}]]})

    with pytest.raises(ValueError, match=remedy):
        EventSerializer().fit(users(seen_by_fit)).transform(users(new))


EMPTY = {
    "nulls": pa.nulls(2),
    "floats": pa.array([np.nan, None]),
    "texts": pa.nulls(2, pa.string()),
    "times": pa.nulls(2, pa.timestamp("us")),
    "lists": pa.nulls(2, pa.list_(pa.float64())),
}


def two_events(values):
    events = pa.StructArray.from_arrays([pa.array([1, 2]), values], names=["n", "a"])
    return pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(pa.ListArray.from_arrays([0, 2], events))})


def values_of_a(text):
    table = parse_events(text)
    return [row[table.header.index("a")] for row in table.rows]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("values", [["b", None], [0.5, 2.0], [dt.datetime(2024, 3, 1)] * 2, [["b"], ["c", "d"]]])
def test_a_field_without_values_is_of_any_kind(values, empty, compact):
    X, other = two_events(pa.array(values)), two_events(empty)
    seen, unseen = (EventSerializer(compact=compact).fit(side) for side in (X, other))
    assert values_of_a(seen.transform(other)["text"][0]) == ["", ""]
    assert unseen.kinds_["a"] == "nothing"
    expected = values_of_a(seen.transform(X)["text"][0])
    assert values_of_a(unseen.transform(X)["text"][0]) == expected


@pytest.mark.parametrize("spec", [".2f", "%Y"])
@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)
def test_a_field_without_values_has_any_format(spec, empty):
    X, other = two_events(pa.array([0.5, 2.0] if spec == ".2f" else [dt.datetime(2024, 3, 1)] * 2)), two_events(empty)
    serializer = EventSerializer(formats={"a": spec}, compact=True).fit(other)
    expected = ["0.50", "2.00"] if spec == ".2f" else ["2024", "2024"]
    assert values_of_a(serializer.transform(X)["text"][0]) == expected
    assert values_of_a(serializer.transform(other)["text"][0]) == ["", ""]


def test_what_is_no_format_is_an_error_without_values_as_well():
    with pytest.raises(ValueError, match=r"formats\['a'\]"):
        EventSerializer(formats={"a": "gibberish"}).fit(two_events(pa.array([None, None], pa.float64())))


def test_types_count_where_fit_has_no_events():
    X = two_events(pa.array([dt.datetime(2024, 3, 2), dt.datetime(2024, 3, 1)]))
    serializer = EventSerializer().fit(X.iloc[:0])
    assert (serializer.time_, serializer.kinds_["a"]) == ("a", "times")
    with pytest.raises(ValueError, match="order"):
        serializer.transform(X)


def test_fields_that_fit_did_not_see_are_ignored(X):
    serializer = EventSerializer(["mcc"]).fit(X)
    assert serializer.transform(pd.DataFrame({"events": [[{"extra": 1, "mcc": 2}]]}))["text"][0] == "mcc\n2"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([5411.0, float("nan")], ["5411", ""]),
        ([12345678901.0, None], ["12345678901", ""]),
        ([np.int8(7), None], ["7", ""]),
        ([None, None], ["", ""]),
    ],
)
def test_another_type_of_the_same_kind_is_written_alike(codes, expected):
    X = pd.DataFrame({"events": [[{"mcc": 5411}, {"mcc": 7}]]})
    other = pd.DataFrame({"events": [[{"mcc": code} for code in codes]]})
    text = EventSerializer().fit(X).transform(other)["text"][0]
    assert [row[0] for row in parse_events(text).rows] == expected


def test_a_type_that_does_not_suit_the_formats_is_in_the_same_message():
    X = pd.DataFrame({"events": [[{"a": 1, "b": 2}]]})
    serializer = EventSerializer(formats={"a": "04d"}).fit(X)
    with pytest.raises(ValueError, match=r"formats\['a'\]: '04d' is not a format for numbers \(double\)") as raised:
        serializer.transform(pd.DataFrame({"events": [[{"a": 1.5}]]}))
    assert "fit saw ['b'], which the events do not have" in str(raised.value)


def test_auto_time_is_the_first_field_that_orders_the_events():
    days = pd.to_datetime(["2024-01-01", "2024-01-02"])
    table = pd.DataFrame({"user": 1, "expiry": days[::-1], "t": days})
    serializer = EventSerializer(["expiry"]).fit(nest_events(table, user="user", time="t"))
    assert serializer.time_ == "t"
    with pytest.raises(ValueError, match="'t' decreases within 1 of 1 users"):
        serializer.transform(nest_events(table, user="user", time="expiry"))


def test_auto_time_is_a_field_that_differs_between_events_of_a_user_if_there_is_one():
    born = pd.to_datetime(["1950-02-03"] * 2 + ["1940-01-01"])
    table = pd.DataFrame({"user": [1, 1, 2], "born": born, "day": pd.date_range("2024-01-01", periods=3)})
    X = nest_events(table, user="user", time="day")
    assert EventSerializer().fit(X).time_ == "day"
    assert EventSerializer().fit(nest_events(table[["user", "born"]], user="user")).time_ == "born"
    assert EventSerializer().fit(X.iloc[1:]).time_ == "born"  # A single event, which all fields order.


def test_parameters_changed_after_fit_do_not_break_transform(X):
    serializer = EventSerializer().fit(X).set_params(compact=True)
    assert serializer.transform(X)["text"].to_list() == TEXTS


def test_a_missing_code_has_no_label():
    X = pd.DataFrame({"events": [[{"mcc": 1}, {"mcc": None}]]})
    assert texts_of(X, labels={"mcc": {1: "one", None: "none"}}) == ['mcc\none\n""']


@pytest.mark.parametrize(
    "values", [pd.period_range("2024-01", periods=1, freq="M"), pd.arrays.IntervalArray.from_breaks([0, 1])]
)
@pytest.mark.parametrize("encode", [False, True])
def test_arrow_extension_types_are_rejected(values, encode):
    array = pa.array(pd.Series(values))
    array = pa.DictionaryArray.from_arrays(pa.array([0]), array) if encode else array
    lists = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([array], names=["a"]))
    X = pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(lists)})
    with pytest.raises(TypeError, match=r"The field 'a' of the events: values of type .* cannot be written as text"):
        EventSerializer().fit(X)


def test_a_fitted_serializer_can_be_pickled(X):
    serializer = EventSerializer(compact=True, scalers={"amount": StandardScaler()}).fit(X)
    same = pickle.loads(pickle.dumps(serializer))
    assert same.transform(X)["text"].to_list() == serializer.transform(X)["text"].to_list()


UNSORTED = [[{"day": dt.date(2024, 3, 2), "n": 1}, {"day": None, "n": 2}, {"day": dt.date(2024, 3, 1), "n": 3}]]


def test_events_out_of_order_are_rejected(as_kind):
    X, events = as_kind([[{"day": dt.date(2024, 3, 2), "n": 1}], *UNSORTED])
    message = "'day' decreases within 1 of 2 users, first in row 1; sort the events"
    with pytest.raises(ValueError, match=message):
        EventSerializer(events=events).fit(X)
    serializer = EventSerializer(events=events).fit(X[:1])
    with pytest.raises(ValueError, match=message):
        serializer.transform(X)


def test_a_row_whose_label_cannot_be_written_is_named_by_its_position():
    index = pd.Index(np.array([0, 15901 - 1970], dtype="M8[Y]").astype("M8[s]")).tz_localize("UTC")
    X = pd.DataFrame({"events": [UNSORTED[0][:1], *UNSORTED]}, index=index)
    with pytest.raises(ValueError, match="'day' decreases within 1 of 2 users, first in row 1; sort the events"):
        EventSerializer().fit(X)


@pytest.mark.parametrize("time", [None, "n"])
def test_another_field_or_none_can_order_the_events(time):
    X = pd.DataFrame({"events": UNSORTED})
    assert texts_of(X, time=time) == ["day|n\n2024-03-02, 1\n, 2\n2024-03-01, 3"]


def test_the_users_frame_is_not_changed(as_kind):
    X, events = as_kind(USERS)
    before = flatten_events(X.copy() if isinstance(X, pd.DataFrame) else X.clone(), events)
    EventSerializer(events=events, compact=True, max_events=1, formats={"day": "%a"}).fit_transform(X)
    after = flatten_events(X, events)
    assert after.columns == before.columns
    assert after.offsets.tolist() == before.offsets.tolist()


def test_a_blank_line_follows_the_instruction(X):
    assert texts_of(X, columns=["mcc"], instruction="A client.")[:2] == [
        "A client.\n\nmcc\n5411\n4111",
        "A client.\n\nmcc",
    ]


def test_separators_can_be_chosen(X):
    texts = texts_of(X, separator="\t", header_separator=", ", headers={"mcc": "m,c"})
    assert texts[0] == 'day, "m,c", amount, note\n2024-03-01\t5411\t8\t"a, b"\n2024-03-02\t4111\t2.5\t'


def test_scalers_learn_from_the_users_and_events_that_fit_writes(X):
    serializer = EventSerializer(["amount"], scalers={"amount": StandardScaler()}, max_events=1).fit(X)
    assert serializer.scalers_["amount"].mean_ == pytest.approx((2.5 - 0.25) / 2)
    assert serializer.transform(X)["text"].iloc[0] == "amount\n1.00"


@pytest.mark.parametrize(
    ("field", "scaler", "style", "expected"),
    [
        ("amount", MinMaxScaler(), None, ["1.00", "0.33", "", "0.00"]),
        ("amount", MinMaxScaler(), ".0%", ["100%", "33%", "", "0%"]),
        ("amount", KBinsDiscretizer(2, encode="ordinal", strategy="uniform"), ".0f", ["1", "0", "", "0"]),
        ("day", MinMaxScaler(), None, ["1.00", "0.25", "", "0.00"]),
        ("span", MinMaxScaler(), None, ["1.00", "0.50", "", "0.00"]),
    ],
)
def test_scaled_values(field, scaler, style, expected):
    table = pd.DataFrame(
        {
            "user": 1,
            "n": range(4),
            "amount": [9.0, 3.0, None, 0.0],
            "day": pd.to_datetime(["2024-03-05", "2024-03-02", None, "2024-03-01"]),
            "span": pd.to_timedelta([4, 3, None, 2], unit="h"),
        }
    )
    X = nest_events(table, user="user", time="n")
    formats = None if style is None else {field: style}
    text = texts_of(X, columns=["n", field], scalers={field: scaler}, formats=formats, time="n")[0]
    assert [row[1] for row in parse_events(text).rows] == expected


def test_scaling_needs_values_to_learn_from():
    X = pd.DataFrame({"events": [[{"a": float("nan")}]]})
    with pytest.raises(ValueError, match=r"scalers\['a'\]: the field has no values"):
        EventSerializer(scalers={"a": StandardScaler()}).fit(X)


def test_lists_inside_an_event_are_joined():
    X = pd.DataFrame({"events": [[{"codes": ["a", "b, c", 'd; "e"', None, ""]}, {"codes": []}, {"codes": None}]]})
    rows = parse_events(texts_of(X, missing="none")[0]).rows
    assert rows == [['a; b, c; "d; ""e"""; ; ""'], [""], ["none"]]


def test_lists_of_lists_are_joined_from_the_inside_out():
    X = pd.DataFrame({"events": [[{"a": [[1, 2], [3], [], None]}]]})
    assert parse_events(texts_of(X)[0]).rows == [['"1; 2"; 3; ""; ']]


def test_labels_replace_the_elements_of_lists(X):
    X = pd.DataFrame({"events": [[{"codes": [1, 2]}, {"codes": [2, 3]}]]})
    with pytest.warns(UserWarning, match=r"no description for 1 values of 'codes' \(1 different codes, such as 3\)"):
        assert texts_of(X, labels={"codes": {1: "one", 2: "two"}}) == ["codes\none; two\ntwo; 3"]


@pytest.mark.skipif(not hasattr(pa, "string_view"), reason="this pyarrow has no string views")
def test_string_views_are_strings():
    views = pa.ListArray.from_arrays([0, 2], pa.array(["a", "b"], pa.string_view()))
    X = pd.DataFrame({"s": pd.arrays.ArrowExtensionArray(views)})
    assert texts_of(X, events=["s"], max_events=1) == ["s\nb"]
