"""Formats of numbers and times: what `EventSerializer(formats=...)` writes."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skllm4es import EventSerializer, nest_events
from skllm4es.serialize import parse_events
from skllm4es.serialize._styles import read_style


def written(values, style, users=(1, 1, 1)):
    """The written values of the events of some users, in order."""
    table = pa.table({"user": list(users), "n": range(len(users)), "value": values})
    X = nest_events(table, user="user", time="n")
    texts = EventSerializer(["n", "value"], formats={"value": style}, time="n").fit_transform(X)["text"]
    return [row[1] for text in texts for row in parse_events(text).rows]


def times(*values, zone=None, unit="us"):
    zoned = pd.to_datetime(list(values), format="ISO8601").tz_localize(zone)
    return pa.array(zoned, pa.timestamp(unit, zone))


@pytest.mark.parametrize(
    ("values", "style", "expected"),
    [
        ([1.005, 2.5, None], ".2f", ["1.00", "2.50", ""]),
        ([1234.5, 0.5, 1.5], ".0f", ["1234", "0", "2"]),
        ([1234.5, float("nan"), -1e6], ",.1f", ["1,234.5", "", "-1,000,000.0"]),
        ([1, None, 3], ".1f", ["1.0", "", "3.0"]),
        ([1, 20, 300], "04d", ["0001", "0020", "0300"]),
        (pa.array([Decimal("1.005"), None, Decimal("2.50")]), ".2f", ["1.00", "", "2.50"]),
        ([1234.5, 0.000123456, None], "3 significant digits", ["1230", "0.000123", ""]),
        ([99.96, 5.0, 0.0], "3 significant digits", ["100", "5", "0"]),
        ([123456, 7, -15], "1 significant digit", ["100000", "7", "-20"]),
        (pa.array([90_500_000, None, 0], pa.duration("us")), ".1f", ["90.5", "", "0.0"]),
        ([3, 5, 5], "since previous event", ["", "2", "0"]),
        ([3.5, None, 5.0], "since previous event", ["", "", ""]),
        (pa.array([3, 1, 2], pa.uint8()), "since previous event", ["", "-2", "1"]),
        (pa.array([60, 90, 0], pa.duration("s")), "since previous event", ["", "30", "-90"]),
        (pa.array([1100, 2200, 3300], pa.duration("ms")), "since previous event", ["", "1.1", "1.1"]),
        (pa.array([10**18, 10**18 + 3, None], pa.duration("ns")), "since previous event", ["", "0.000000003", ""]),
        (pa.array([2**64 - 6, 2**64 - 1, 0], pa.uint64()), "since previous event", ["", "5", str(1 - 2**64)]),
        ([-(2**62), 2**62 + 2**61, 0], "since previous event", ["", str(2**63 + 2**61), str(-(2**62 + 2**61))]),
    ],
)
def test_numbers(values, style, expected):
    assert written(values, style) == expected


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("days since 2024-03-01", ["-1", "", "1"]),
        ("hours since 2024-03-01", ["-1", "", "34"]),
        ("minutes since 2024-03-02 10:00", ["-2041", "", "15"]),
        ("seconds since 2024-03-02 10:15", ["-123301", "", "0"]),
        ("%a %H", ["Thu 23", "", "Sat 10"]),
        ("%Y-%m-%d", ["2024-02-29", "", "2024-03-02"]),
        ("%H:%M:%S", ["23:59:59", "", "10:15:00"]),
        ("day %j%%", ["day 060%", "", "day 062%"]),
    ],
)
def test_times(style, expected, unit):
    values = times("2024-02-29 23:59:59", None, "2024-03-02 10:15:00", unit=unit)
    assert written(values, style) == expected


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("days since previous event", ["", "1", ""]),
        ("hours since previous event", ["", "25", ""]),
        ("minutes since previous event", ["", "1500", ""]),
        ("seconds since previous event", ["", "90030", ""]),
    ],
)
def test_distances_are_whole_and_within_a_user(style, expected):
    values = times("2024-03-01 10:00:00", "2024-03-02 11:00:30.9", "2024-03-03")
    assert written(values, style, users=(1, 1, 2)) == expected


def test_no_distance_after_a_missing_time():
    assert written(times("2024-03-01", None, "2024-03-03"), "days since previous event") == ["", "", ""]


def test_a_fraction_of_a_second_is_not_written_by_patterns():
    assert written(times("2024-03-01 10:00:00.75", "1969-12-31 23:59:59.5", None), "%S") == ["00", "59", ""]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        # Clocks go back at 3 on the 27th: 2:30 comes twice.
        ("%H:%M", ["23:30", "02:30", "02:30"]),
        ("%H:%M%z", ["23:30+0200", "02:30+0200", "02:30+0100"]),
        ("%d %Z", ["26 CEST", "27 CEST", "27 CET"]),
        ("days since 2024-10-26", ["0", "1", "1"]),
        ("hours since previous event", ["", "3", "1"]),
    ],
)
def test_times_are_in_their_own_zone(style, expected):
    instants = pd.to_datetime(["2024-10-26 21:30", "2024-10-27 00:30", "2024-10-27 01:30"]).tz_localize("UTC")
    assert written(pa.array(instants, pa.timestamp("s", "Europe/Berlin")), style) == expected


def test_dates():
    days = pa.array(np.array(["2024-02-29", "2024-03-02", "NaT"], "datetime64[D]"))
    assert written(days, "%d.%m.") == ["29.02.", "02.03.", ""]
    assert written(days, "days since 2024-03-01") == ["-1", "1", ""]
    assert written(days, "hours since previous event") == ["", "48", ""]


@pytest.mark.parametrize("unit", ["us", "ns"])
@pytest.mark.parametrize(("origin", "days"), [("1700-01-01", "118338"), ("0001-01-01", "738885")])
def test_distant_origins_do_not_overflow(unit, origin, days):
    assert written(times("2024-01-01", unit=unit), f"days since {origin}", users=[1]) == [days]


def test_long_distances_do_not_overflow():
    values = pa.array([-9 * 10**18, 9 * 10**18], pa.timestamp("ns"))
    assert written(values, "days since previous event", users=[1, 1]) == ["", "208333"]


def test_dictionaries_of_numbers_and_times_are_formatted_like_their_values():
    days = times("2024-03-01", "2024-03-03", "2024-03-01").dictionary_encode()
    assert written(days, "days since 2024-03-01") == ["0", "2", "0"]
    assert written(days, "hours since previous event") == ["", "48", "-48"]
    assert written(pa.array([7, 12, 7]).dictionary_encode(), "04d") == ["0007", "0012", "0007"]


@given(st.lists(st.floats(width=32) | st.floats(), min_size=1), st.sampled_from([".2f", ".0f", ".3e", "+.1%"]))
def test_python_formats_write_what_python_writes(values, spec):
    texts = read_style(spec, pa.float64()).write(pa.array(values, from_pandas=False)).to_pylist()
    # Negative zero equals zero.
    assert texts == [None if value != value else format(value + 0.0, spec) for value in values]


@pytest.mark.parametrize(
    ("style", "values"),
    [
        ("", [1.0]),
        (".2x", [1.0]),
        ("d", [1.0]),
        ("16 significant digits", [1.0]),
        ("0 significant digits", [1.0]),
        (2, [1.0]),
        (".2f", ["a"]),
        (".2f", [True]),
        ("c", [65, -1]),
        ("%H", [1.0, 2.0]),
        (".2f", times("2024-03-01")),
        ("days", times("2024-03-01")),
        ("weeks since 2024-03-01", times("2024-03-01")),
        ("days since March", times("2024-03-01")),
        ("days since NaT", times("2024-03-01")),
        ("since previous event", times("2024-03-01")),
        ("days since now", times("2024-03-01")),
        ("days since 2024-02-31", times("2024-03-01")),
        ("%H%z", times("2024-03-01")),
        ("%f", times("2024-03-01")),
        ("%-d", times("2024-03-01")),
        ("100%", times("2024-03-01")),
    ],
)
def test_other_formats_are_rejected(style, values):
    with pytest.raises(ValueError, match=r"formats\['value'\]: .* is not a format for"):
        written(values, style, users=[1] * len(values))
