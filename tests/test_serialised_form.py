"""The serialised form is a contract: `parse_events` inverts `format_events` exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skllm4es.serialize import EventTable, format_events, parse_events

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
