"""Equal numbers have equal texts and categories, whatever their type, and whoever stands beside them."""

import contextlib
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from skllm4es import EventSerializer
from skllm4es.baselines import BagOfEvents, EventAggregator
from skllm4es.serialize._styles import read_style
from skllm4es.serialize._values import format_values

INT_TYPES = [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64]
DECIMAL_TYPES = [pa.decimal128(38, scale) for scale in (0, 2, 10)] + [pa.decimal256(76, scale) for scale in (0, 5, 40)]

WHOLE = st.integers(-300, 300) | st.integers(-(10**12), 10**12) | st.integers(-(2**63), 2**64 - 1)
DYADIC = st.builds(lambda n, bits: n / 2**bits, st.integers(-(2**24), 2**24), st.integers(0, 12))
MONEY = st.decimals(-(10**9), 10**9, places=2)
NUMBERS = (
    WHOLE.map(Decimal)
    | MONEY
    | st.decimals(-(10**25), 10**25, places=10)
    | (DYADIC | st.floats(-1e30, 1e30) | st.floats(width=32, allow_nan=False, allow_infinity=False)).map(Decimal)
)


def holders(number):
    """Return one array for each type that holds a number exactly."""
    arrays = []
    if number == int(number):
        integers = [dtype for dtype in INT_TYPES if np.iinfo(dtype).min <= number <= np.iinfo(dtype).max]
        arrays += [pa.array(np.array([int(number)], dtype)) for dtype in integers]
    with np.errstate(over="ignore"):
        floats = [np.array([float(number)]).astype(dtype) for dtype in (np.float32, np.float64)]
    arrays += [pa.array(value) for value in floats if np.isfinite(value[0]) and Decimal(float(value[0])) == number]
    for type_ in DECIMAL_TYPES:
        with contextlib.suppress(pa.ArrowInvalid):  # It has too many digits, which Arrow does not always notice.
            arrays += [array for array in [pa.array([number], type_)] if array[0].as_py() == number]
    return arrays


def frame(*arrays):
    """One user per array, whose events hold its values."""
    return [pd.DataFrame({"events": pd.arrays.ArrowExtensionArray(as_events(array))}) for array in arrays]


def as_events(array):
    return pa.ListArray.from_arrays([0, len(array)], pa.StructArray.from_arrays([array], names=["n"]))


def dense(vectors):
    return vectors.toarray() if hasattr(vectors, "toarray") else vectors


def text_of(array):
    return format_values(array)[0].as_py()


@given(NUMBERS)
def test_equal_numbers_have_equal_texts_whatever_their_type(number):
    assert len({text_of(array) for array in holders(number)}) <= 1


@given(st.lists(NUMBERS, min_size=1, max_size=5), st.randoms())
def test_a_number_has_the_text_that_it_has_alone(numbers, random):
    columns = {}
    for number in numbers:
        for array in holders(number):
            columns.setdefault(array.type, []).append(array)
    for arrays in columns.values():
        random.shuffle(arrays)
        column = pa.chunked_array([*arrays, pa.nulls(1, arrays[0].type)])
        expected = [text_of(array) for array in arrays] + [None]
        assert format_values(column).to_pylist() == expected


@given(MONEY | WHOLE.map(Decimal) | st.decimals(-(10**25), 10**25, places=10))
def test_the_text_of_a_decimal_is_the_decimal(number):
    for array in (pa.array([number], pa.decimal128(38, 10)), pa.array([number], pa.decimal256(76, 30))):
        assert Decimal(text_of(array)) == number or float(number) == np.float32(number)


@given(st.decimals(-(10**9), 10**9, places=3) | st.floats(1e-9, 1e9).map(lambda value: Decimal(repr(value))))
def test_decimals_and_the_floats_that_are_read_from_the_same_text_are_written_alike(number):
    assert text_of(pa.array([number], pa.decimal256(76, 40))) == text_of(pa.array([float(number)]))


@given(st.integers(-32_000_00, 32_000_00).map(lambda cents: cents / 100))
def test_amounts_are_written_alike_in_single_and_double_precision(amount):
    single = pa.array([amount], pa.float32())
    assert text_of(single) == text_of(pa.array([amount])) == text_of(single.cast(pa.float64()))


@pytest.mark.parametrize(
    "number", ["2.5", "5411", "-0", "0.1", "12.99", "1e-7", "2097152.25", "12345678901.5", "12345678901", "0.000012"]
)
def test_a_number_is_written_as_it_is_usually_written(number):
    arrays = [pa.array([float(number)]), pa.array([Decimal(number)], pa.decimal128(38, 12))]
    assert set(map(text_of, arrays)) == {"0" if number == "-0" else number}


@pytest.mark.parametrize(
    ("number", "text"),
    [("1152921504606846976", "1152921504606846976"), ("123456792", "123456792"), ("1e20", "1e+20"), ("-0.00", "0")],
)
def test_large_numbers_and_zeros(number, text):
    assert {text_of(array) for array in holders(Decimal(number))} == {text}


SPECS = [".2f", ".0f", ",", ",.1f", "8", "+", ".3", ".3g", ".2e", "+.1%", "3 significant digits"]


@given(st.integers(-(10**6), 10**6).map(lambda n: Decimal(n) / 16) | st.integers(-(10**12), 10**12).map(Decimal))
def test_equal_numbers_are_formatted_alike(number):
    for spec in SPECS:
        texts = {read_style(spec, array.type).write(array)[0].as_py() for array in holders(number)}
        assert len(texts) <= 1, spec


CODES = pa.array([Decimal(code) for code in (5411, 4111, 5411, 5999)], pa.decimal128(9, 2))
TYPES = [pa.int16(), pa.int64(), pa.float32(), pa.float64(), pa.decimal128(4, 0), pa.decimal128(9, 2)]
PANDAS = ["int32", "Int64", "Float64", "float32", "object"]


@pytest.mark.parametrize("fitted", TYPES, ids=str)
@pytest.mark.parametrize("served", TYPES, ids=str)
@pytest.mark.parametrize(
    "params", [{}, {"compact": True}, {"formats": {"n": ","}}, {"scalers": {"n": StandardScaler()}}]
)
def test_texts_do_not_depend_on_the_type_in_fit_or_in_transform(fitted, served, params):
    X, same, other = frame(*(CODES.cast(type_) for type_ in (pa.int64(), fitted, served)))
    expected = EventSerializer(**params).fit_transform(X)["text"].to_list()
    assert EventSerializer(**params).fit(same).transform(other)["text"].to_list() == expected


@pytest.mark.parametrize("served", [*TYPES, pa.decimal128(38, 2), pa.decimal256(76, 2)], ids=str)
def test_distances_of_equal_numbers_are_equal(served):
    X, other = frame(CODES.cast(pa.int64()), CODES.cast(served))
    serializer = EventSerializer(formats={"n": "since previous event"}).fit(X)
    assert serializer.transform(other)["text"].to_list() == ['n\n""\n-1300\n1300\n588']


@pytest.mark.parametrize("fitted", TYPES, ids=str)
def test_the_compact_form_writes_whole_times_alike_whatever_their_type(fitted):
    times = pa.array([Decimal(10), Decimal(12), Decimal(19)], pa.decimal128(9, 2))
    X, same = frame(times.cast(pa.int64()), times.cast(fitted))
    serializer = EventSerializer(compact=True, time="n")
    assert serializer.fit_transform(same)["text"].to_list() == serializer.fit_transform(X)["text"].to_list()


@pytest.mark.parametrize("dtype", PANDAS)
def test_types_of_pandas_and_labels(dtype):
    X = pd.DataFrame({"events": [pd.DataFrame({"n": pd.Series([5411, 4111]).astype(dtype)})]})
    serializer = EventSerializer(labels={"n": {5411: "Groceries", Decimal(4111): "Transport"}})
    assert serializer.fit_transform(X)["text"].to_list() == ["n\nGroceries\nTransport"]


@pytest.mark.parametrize("baseline", [EventAggregator, BagOfEvents])
@pytest.mark.parametrize("served", TYPES, ids=str)
@pytest.mark.parametrize("fitted", TYPES, ids=str)
def test_categories_do_not_depend_on_the_type(baseline, fitted, served):
    settings = {"categorical": ["n"], "time": None} | ({"n_components": None} if baseline is BagOfEvents else {})
    X, same, other = frame(*(CODES.cast(type_) for type_ in (pa.int64(), fitted, served)))
    single, single_int = frame(CODES.cast(served)[:1], CODES.cast(pa.int64())[:1])
    expected, found = baseline(**settings).fit(X), baseline(**settings).fit(same)
    assert found.categories_ == expected.categories_ == {"n": ["5411", "4111", "5999"]}
    np.testing.assert_array_equal(dense(found.transform(other)), dense(expected.transform(X)))
    np.testing.assert_array_equal(dense(found.transform(single)), dense(expected.transform(single_int)))


@given(st.lists(MONEY, min_size=1, max_size=9))
def test_numbers_of_decimals_are_the_nearest_floats(numbers):
    X, other = frame(pa.array(numbers, pa.decimal128(20, 2)), pa.array([float(number) for number in numbers]))
    aggregator = EventAggregator(time=None)
    np.testing.assert_array_equal(aggregator.fit_transform(X), aggregator.fit_transform(other))


@pytest.mark.parametrize("estimator", [EventSerializer(), EventAggregator(time=None)])
def test_columns_beside_the_events_may_be_absent_and_may_be_added(estimator):
    (X,) = frame(CODES.cast(pa.int64()))
    with_profile = X.assign(age=7)
    expected = np.asarray(estimator.fit(with_profile).transform(with_profile))
    for other in (X, X.assign(name="x"), with_profile[["age", "events"]]):
        np.testing.assert_array_equal(np.asarray(estimator.transform(other)), expected)
    assert estimator.feature_names_in_.tolist() == ["events"]
