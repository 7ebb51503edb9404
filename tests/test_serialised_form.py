"""The serialised form is a contract: `parse_events` inverts `format_events` exactly."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skllm4es.serialize import EventTable, _columns, format_events, parse_events
from skllm4es.serialize._columns import parse_columns
from skllm4es.serialize._compact import CompactColumn, format_compact

# Separators, quotes and line breaks are drawn often, because they are what can go wrong.
FIELD = st.text(st.sampled_from(list(', |"\n\r\t;a0é\u2028😀'))) | st.text()


@st.composite
def tables(draw):
    width = draw(st.integers(1, 4))
    row = st.lists(FIELD, min_size=width, max_size=width)
    return EventTable(draw(row), draw(st.lists(row, max_size=5)))


@given(tables())
def test_round_trip_over_any_text(table):
    assert parse_events(format_events(table.header, table.rows)) == table


@pytest.mark.parametrize(
    "text",
    [
        "a, b\n1, 2\n, ",
        "a,b\n1,2\n,",
        "a; b\n1; 2\n; ",
        "a;b\n1;2\n;",
        "a | b\n1 | 2\n | ",
        "a|b\n1|2\n|",
        "a\tb\n1\t2\n\t",
        "a, b\n1;2\n;",
        "A client's history.\n\na|b\n1, 2\n, ",
        'Say "a\n\nb".\nThen:\n\na|b\n1, 2\n, ',
    ],
)
def test_separators_and_instructions_are_recognised(text):
    assert parse_events(text) == EventTable(["a", "b"], [["1", "2"], ["", ""]])


def test_names_with_any_separator_are_quoted():
    assert format_events(["amount, rubles", "", " b"], []) == '"amount, rubles"|""|" b"'


def test_plain_fields_are_written_bare():
    assert format_events(["a", "b"], [["1", "x y"], ["2", ""]]) == "a|b\n1, x y\n2, "


def test_fields_with_marks_are_quoted_as_in_csv():
    assert format_events(["a"], [['say "hi", then']]) == 'a\n"say ""hi"", then"'


def test_a_user_without_events_is_the_header_alone():
    assert parse_events("a|b") == EventTable(["a", "b"], [])


def test_an_empty_single_field_is_not_an_empty_line():
    assert format_events(["a"], [[""]]) == 'a\n""'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a|b\n1, 2\n3", r"Event 2 of the text has 1 fields \['3'\], but the header names 2"),
        ('a|b\n1, "2', "not closed"),
        ('a|b\n"1"x, 2', "after the closing quote"),
    ],
)
def test_texts_in_another_form_are_rejected(text, message):
    with pytest.raises(ValueError, match=message):
        parse_events(text)


def test_anything_but_a_text_is_rejected():
    with pytest.raises(TypeError, match="got list"):
        parse_events(["a|b"])


def rows_of(texts):
    """Return the events of texts as dicts without what is empty, as `parse_events` reads them."""
    return [
        [{name: value for name, value in zip(table.header, row, strict=True) if value} for row in table.rows]
        for table in map(parse_events, texts)
    ]


def rows_of_columns(columns):
    rows = [{} for _ in range(columns.n_events)]
    for name in columns.names:
        codes = columns.codes(name)
        for row, value, code in zip(rows, columns.values_at(name, codes), codes, strict=True):
            assert bool(value) == bool(code)
            if value:
                row[name] = value
    return [rows[end - n : end] for n, end in zip(columns.lengths, columns.lengths.cumsum(), strict=True)]


#: Texts of all forms, and of none: what Arrow reads, what it would read differently, and what it refuses.
PLAIN = tables().map(lambda table: format_events([str(i) for i in range(len(table.header))], table.rows))
COMPACT = st.lists(st.sampled_from(["x", "y z", "1", "7"]), max_size=4).map(
    lambda values: format_compact([CompactColumn("0", words=False, code="~")], [values])
)
OTHER = st.sampled_from(
    [
        "",
        "0",
        "0\nx\n",
        "0\nx\n\n1\ny",
        "Films.\n\n0|1\n1;2\n3;4",
        "0|1\n,, x",
        "0|1\na | | b",
        "0\n\ufeffx",
        "0\nNA\nnull\n\0",
        "0\na\x1fb",
        '0|1\n"a, ""b""", c\n"x\ny", "z\r"',
    ]
)


@given(st.lists(PLAIN | COMPACT | OTHER, max_size=4))
def test_columns_hold_what_parse_events_reads_in_each_text(texts):
    columns = parse_columns(texts)
    assert rows_of_columns(columns) == rows_of(texts)
    for name in columns.names:
        values = [value for part in columns.values(name) for value in part]
        n_codes = columns.codes(name).max(initial=0) + 1
        distinct = columns.values_at(name, np.arange(n_codes, dtype=np.int32))
        assert len(set(distinct)) == n_codes
        assert set(distinct) == {"", *values}


@given(st.lists(st.text(st.sampled_from(list(', |"\n;ab\r+~')), max_size=12), max_size=3))
def test_columns_refuse_what_parse_events_refuses(texts):
    try:
        expected = rows_of(texts)
    except ValueError:
        with pytest.raises(ValueError, match=r"Text \d+ is not in the form that EventSerializer writes"):
            parse_columns(texts)
        return
    columns = parse_columns(texts)
    assert [len(rows) for rows in expected] == columns.lengths.tolist()


def test_columns_name_the_text_and_the_event_that_are_wrong():
    with pytest.raises(ValueError, match=r"Text 2 is not .*: Event 2 of the text has 1 fields"):
        parse_columns(["a|b\n1, 2", "a|b", "a|b\n1, 2\n3", "a|b\n5, 6"])


def test_texts_are_parsed_in_pieces(monkeypatch):
    monkeypatch.setattr(_columns, "_PIECE", 20)
    texts = [f"0|1\n{i}, x\n{i % 3}, y" for i in range(30)] + ["1|2\nx, 5"]
    assert rows_of_columns(parse_columns(texts)) == rows_of(texts)


def test_columns_of_the_same_name_are_told_apart():
    columns = parse_columns(["a|a|a_2|a\n1, 2, 3, 4"])
    values = {name: value for name in columns.names for value in columns.values_at(name, columns.codes(name))}
    assert values == {"a": "1", "a_3": "2", "a_2": "3", "a_4": "4"}


def test_distinct_values_are_not_held_as_strings_of_python(monkeypatch):
    monkeypatch.setattr(_columns, "_PIECE", 1 << 14)
    monkeypatch.setattr(_columns, "_PART", 1 << 10)
    texts = [
        "time\n" + "\n".join(f"2024-01-01 00:00:00.{user * 1000 + i:06}" for i in range(1000)) for user in range(50)
    ]
    parse_columns(texts[:1])
    tracemalloc.start()
    n_values = sum(map(len, parse_columns(texts).values("time")))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_values == 50_000
    assert peak < 50 * n_values  # A string of Python takes 75 bytes, and its place in a dictionary 100.


def test_a_text_lacks_the_features_of_others():
    columns = parse_columns(["a|b\n1, 2", "b\n3\n2", "c\n"])
    assert columns.names == ["a", "b"]
    assert columns.values_at("a", columns.codes("a")) == ["1", "", ""]
    assert columns.values_at("b", columns.codes("b")) == ["2", "3", "2"]
    assert columns.codes("of none").tolist() == [0, 0, 0]
    numbers = columns.numbers("a", lambda values: np.array([float(value or "nan") for value in values]))
    assert np.array_equal(numbers, [1, np.nan, np.nan], equal_nan=True)


def test_texts_that_are_parsed_one_by_one_are_counted_together():
    odd = ["0|1\n3, 2"] + [f'0|1\n"{i}\r", x' for i in range(50)]
    columns = parse_columns(odd)
    assert rows_of_columns(columns) == rows_of(odd)
    parts = []
    columns = parse_columns(odd)
    columns.numbers("0", lambda values: parts.append(values) or np.zeros(len(values)))
    assert len(parts) == 2
