"""The comparison of a rewritten text with its original: losses count, the style does not."""

import json
import random
from functools import reduce

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_formats import HOSTILE, TRANSACTIONS, tables

from skllm4es.enrich._faithfulness import compare
from skllm4es.formats import FORMATS
from skllm4es.serialize import EventTable, format_events

LETTERS = "abcdefghijklmnopqrstuvwxyz"
COMPLETE = [name for name, text_format in FORMATS.items() if text_format.complete]
PAYMENTS = format_events(TRANSACTIONS.header, TRANSACTIONS.rows)


def recall(original, rewritten):
    return compare(original, rewritten).recall


@pytest.mark.parametrize("name", COMPLETE)
@given(table=tables(), seed=st.integers(0, 2**32))
@example(table=EventTable(["a", "b"], [[value, value] for value in HOSTILE]), seed=0)
@example(table=EventTable(HOSTILE, [HOSTILE, HOSTILE]), seed=1)
@example(table=EventTable(["amount"], [["5"], ["100250.00"], ["1250"]]), seed=2)
def test_no_template_is_ever_flagged(name, table, seed):
    text = FORMATS[name].render(table, random.Random(seed))
    assert compare(format_events(table.header, table.rows), text)[::2] == (1.0, [])


@pytest.mark.parametrize("name", COMPLETE)
def test_all_numbers_of_a_template_stem_from_the_original(name):
    for seed in range(60):
        text = FORMATS[name].render(TRANSACTIONS, random.Random(seed))
        assert compare(PAYMENTS, text).precision == 1.0, text


def test_only_the_summary_is_incomplete():
    assert [name for name in FORMATS if name not in COMPLETE] == ["breakdown"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("2020-03-05", "on March 5th, 2020"),
        ("2020-03-05", "the 5th of March 2020"),
        ("2020-03-05", "05/03/2020"),
        ("2020-03-05", "03/05/2020"),
        ("2020-03-05", "2020.3.5"),
        ("2020-03-05", "Sept. is not it: Mar. 5, 2020!"),
        ("2020-03-05 15:30:10", "## 5 March 2020\n15:30"),
        ("2020-03-05 15:30:10", "March 5, 2020, 3:30 PM"),
        ("2020-03-05 00:05:00", "March 5, 2020, 12:05 a.m."),
        ("2020-03-05T15:30:10Z", "2020-03-05T15:30:10+00:00"),
        ("1250.00", "$1,250"),
        ("1250", "1 250.00 RUB"),
        ("-300.5", "minus 300.50"),
        ("1234567.10", "1,234,567.1"),
        ("Bed & Breakfast", "bed &amp; breakfast"),
        ('Joe\'s "Diner"', '"JOE\'S \\"Diner\\""'),
        ("Zürich", '"Z\\u00fcrich"'),
        ("100000", "amount 3 100,000"),
        ("100000", "amount 3 100 000"),
        ("May 1250", "a note_2 May 1250"),
        ("snake_case", "snake\\_case"),
        ("Fast Food", "**Fast** Food"),
        ('"quoted"', "&quot;quoted&quot;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("東京", "私は東京に住む"),
        ("ﬁne", "fine"),
    ],
)
def test_restyling_is_not_a_loss(value, written):
    assert recall(format_events(["field"], [[value]]), written) == 1.0


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("2020-03-05", "2020-03-06"),
        ("2020-03-05", "March 2020"),
        ("2020-03-05 15:30:10", "5 March 2020 at 15:31"),
        ("2020-03-05 15:30:10", "5 March 2020 at 3:30 AM"),
        ("1250.00", "125"),
        ("1250.00", "1250.01"),
        ("5", "15"),
        ("Fuel", "Fuels"),
        ("Toy Story", "Toy and Story"),
    ],
)
def test_another_value_is_a_loss(value, written):
    comparison = compare(format_events(["field"], [[value]]), written)
    assert comparison.recall == 0.0
    assert comparison.missing == [value]


def test_recall_falls_with_lost_values():
    original = format_events(["title", "shop"], [[f"item {letter}", "kiosk"] for letter in "abcd"])
    assert recall(original, "item a, item b, item c") == (3 / 4 + 0) / 2
    assert recall(original, "kiosk: item a, item b, item c") == 3 / 4


FILMS = [
    [f"Film {letter * 3} ({1960 + i})", ["Drama", "Comedy", "War"][i % 3], str(1 + i % 5)]
    for i, letter in enumerate(LETTERS)
]
SPENDINGS = [
    [f"2020-03-{1 + i:02}", ["Fuel", "Books", "Cinema"][i % 3], ["POS", "ATM"][i % 2], "RUB", f"{i * 7919 % 4000}.50"]
    for i in range(26)
]
TABLES = {
    "films": EventTable(["title", "genre", "rating"], FILMS),
    "spendings": EventTable(["date", "mcc", "type", "currency", "amount"], SPENDINGS),
}


def _lists(rows):
    """Write events in a numbered list, as LLMs like to."""
    return "\n".join([f"{number}. **{row[0]}** - {', '.join(row[1:])}" for number, row in enumerate(rows, start=1)])


@pytest.mark.parametrize("change", ["left out", "always the same"])
@pytest.mark.parametrize(("name", "field"), [(name, field) for name in TABLES for field in TABLES[name].header])
def test_a_lost_field_costs_its_share_however_few_values_it_has(name, field, change):
    header, rows = TABLES[name].header, TABLES[name].rows
    place = header.index(field)
    same = [rows[2][place]] if change == "always the same" else []
    spoilt = [[*row[:place], *same, *row[place + 1 :]] for row in rows]
    n_values = len({row[place] for row in rows})
    original = format_events(header, rows)
    assert recall(original, _lists(rows)) == 1.0
    # The currency has a single value, which is kept if it is always written.
    kept = len(same) / n_values
    assert recall(original, _lists(spoilt)) == pytest.approx((len(header) - 1 + kept) / len(header))


@pytest.mark.parametrize("mark", ["{}.", "{})", "#{}", "- #{}:", "  {}."])
def test_the_numbers_of_a_list_are_not_values(mark):
    original = format_events(
        ["title", "rating"], [[f"film {letter}", str(i % 5 + 1)] for i, letter in enumerate(LETTERS)]
    )
    text = "\n".join([f"{mark.format(i + 1)} film {letter}" for i, letter in enumerate(LETTERS)])
    assert recall(original, text) == 1 / 2
    assert recall(original, text + " rated 3") == (1 + 1 / 5) / 2


def test_values_that_look_like_list_numbers_are_values():
    original = format_events(["place", "title"], [["1.", "Heat"], ["2.", "Alien"]])
    assert recall(original, "1. Heat\n2. Alien") == 1.0


def test_recall_falls_with_lost_events_even_if_all_values_are_kept():
    original = format_events(["kind", "stars"], [["film", "5"]] * 8)
    assert recall(original, "film 5, film 5") == 2 / 8


def test_a_value_that_events_share_may_occur_once_in_a_heading():
    original = format_events(["shop", "item"], [["kiosk", f"item {number}"] for number in "abcdef"])
    assert recall(original, "kiosk:\n" + "\n".join(f"- item {number}" for number in "abcdef")) == 1.0


def test_precision_falls_with_invented_values():
    original = format_events(["date", "amount"], [["2020-03-05", "7.50"], ["2020-03-06", "9.50"]])
    comparison = compare(original, "2020-03-05: 7.50; 2020-03-06: 9.50; 2020-03-07: 11")
    assert comparison.recall == 1.0
    assert comparison.precision == 4 / 6


def test_counts_totals_and_means_do_not_count_as_invented():
    original = format_events(["amount"], [["7.50"], ["9.51"], ["4"]])
    assert compare(original, "1. 7.50 2. 9.51 3. 4; in total 21.01, on average 7.00, 33% each").precision == 1.0
    small = format_events(["amount"], [["0.001"], ["0.002"], ["0.0020"]])
    assert compare(small, "1. 0.001 2. 0.002 3. 0.0020; on average 0.0017").precision == 1.0


@pytest.mark.parametrize("original", ["title|rating", 'title\n""', "title\n!"])
def test_without_values_nothing_can_be_lost(original):
    assert compare(original, "Nothing happened.") == (1.0, 1.0, [])


@given(tables(), st.text())
def test_any_two_texts_can_be_compared(table, text):
    comparison = compare(format_events(table.header, table.rows), text)
    assert 0 <= comparison.recall <= 1
    assert 0 <= comparison.precision <= 1


def test_time_grows_with_the_length_of_the_text_only():
    """Each value is looked up from its rarest word, so the text is not searched for each."""
    rows = [[f"the film number {number} of the series", "drama"] for number in range(5_000)]
    original = format_events(["title", "genre"], rows)
    assert recall(original, original) == 1.0


# Losses that other values hide

KEPT = st.sampled_from(
    [
        *(
            "Drug Stores",
            "Drug Stores and Pharmacies",
            "Stores",
            "drug stores",
            "Fuel",
            "2",
            "2.00",
            "5",
            "1250",
            "300.5",
        ),
        *(
            "Toy Story 2",
            "Heat",
            "Heat 2",
            "2020-03-25",
            "2020-03-25 15:30:10",
            "2020-03-25 16:00:00",
            "15:30:10",
            "RUB",
        ),
    ]
)
HEADER = ["alpha", "beta", "gamma", "delta"]


@st.composite
def overlapping_tables(draw):
    """Tables in which values recur in other fields, or inside of other values."""
    width = draw(st.integers(2, 4))
    columns = [draw(st.sampled_from([KEPT, st.just(draw(KEPT)), KEPT | st.just("")])) for _ in range(width)]
    return EventTable(HEADER[:width], draw(st.lists(st.tuples(*columns).map(list), min_size=1, max_size=6)))


# Without titles, headings and analysis, which repeat values.
def _lines(table):
    return "\n".join(["; ".join(row) for row in table.rows])


def _json(table):
    return json.dumps([dict(zip(table.header, row, strict=True)) for row in table.rows])


def _html(table):
    rows = ["<tr>" + "".join([f"<td>{value}</td>" for value in row]) + "</tr>" for row in table.rows]
    return "<table>" + "".join(rows) + "</table>"


def _paragraphs(table):
    """Write names and values in bold type and capitals, dates and numbers in other notations."""
    notations = {"2020-03-25": "March 25, 2020", "1250": "1,250", " 1": ", 1"}
    paragraphs = []
    for row in table.rows:
        values = [reduce(lambda value, item: value.replace(*item), notations.items(), value.upper()) for value in row]
        fields = [f"**{name}** {value}" for name, value in zip(table.header, values, strict=True)]
        paragraphs.append(", ".join(fields) + ".")
    return "\n\n".join(paragraphs)


WRITERS = [_lines, _json, _html, _paragraphs]


@pytest.mark.parametrize("writer", WRITERS)
@given(table=overlapping_tables(), data=st.data())
def test_a_lost_field_or_event_lowers_recall(writer, table, data):
    original = format_events(table.header, table.rows)
    assert recall(original, writer(table)) == 1.0
    lost = data.draw(st.integers(0, len(table.header) - 1), "lost field")
    without_field = EventTable(
        [name for number, name in enumerate(table.header) if number != lost],
        [[value for number, value in enumerate(row) if number != lost] for row in table.rows],
    )
    if any(row[lost] for row in table.rows):
        assert recall(original, writer(without_field)) < 1.0
    lost = data.draw(st.integers(0, len(table.rows) - 1), "lost event")
    if any(table.rows[lost]):
        without_event = EventTable(table.header, [*table.rows[:lost], *table.rows[lost + 1 :]])
        assert recall(original, writer(without_event)) < 1.0


@pytest.mark.parametrize(
    ("rows", "written"),
    [
        ([["Books", "Books"]], "Books"),
        ([["5", "5"], ["4", "4"]], "5\n4"),
        ([["Toy Story 2", "2"]], "Toy Story 2"),
        ([["Drug Stores", "Drug Stores and Pharmacies"]], "Drug Stores and Pharmacies"),
        ([["2020-03-25", "2020-03-25 15:30"]], "25 March 2020, 15:30"),
        ([["2020-03-05", "5"]], "5 March 2020"),
        ([["Drug Stores", "DRUG-STORES"]], "drug stores"),
    ],
)
def test_a_lost_field_whose_values_others_have_or_contain_costs_its_share(rows, written):
    assert recall(format_events(["a", "b"], rows), written) == 0.5


def test_a_field_in_headings_may_share_values_with_another():
    rows = [["3", f"film {letter}", "4" if letter < "m" else "3"] for letter in LETTERS]
    rows += [["7", f"series {letter}", "4"] for letter in LETTERS]
    text = "".join([f"\n## Channel {c}\n" + "\n".join([f"{t}: {r}" for d, t, r in rows if c == d]) for c in "37"])
    assert recall(format_events(["channel", "title", "rating"], rows), text) == 1.0


def test_an_event_is_lost_though_another_field_has_no_value_there():
    rows = [["film", "5"], ["film", ""], ["film", "4"]]
    assert recall(format_events(["kind", "stars"], rows), "film 5, film 4") < 1.0
