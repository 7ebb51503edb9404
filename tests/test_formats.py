"""The formats: whatever the events and the layout, nothing is lost and nothing breaks out of its field."""

import json
import random
import re
import sqlite3
from contextlib import closing
from decimal import localcontext
from xml.etree import ElementTree

import pytest
import yaml
from format_readers import LOSSLESS, read, restore
from hypothesis import example, given
from hypothesis import strategies as st

from skllm4es.formats import FORMATS, Variation, canonical_value
from skllm4es.formats._printable import printable
from skllm4es.serialize import EventTable

N_LAYOUTS = 60

HOSTILE = [
    "</td></tr><script>alert(1)</script>",
    "'; DROP TABLE events; --",
    '"quoted"',
    "`code` | pipe || \\",
    "two\nlines\r\nand\ttabs",
    "\n\n# heading\n\n| a |",
    "\x00\x01\x1b\x7f\x85\ufeff\ufffe\u2028\U0001fffe",
    "- {a: b} # c",
    "no",
    "null",
    "NULL",
    "---",
    "~*_**bold**_[link](url)",
    "; **name**: value",
    "&amp;&#0;&nbsp;<!-- -->]]>",
    "INSERT INTO t (a) VALUES (1);",
    " padded ",
    "}\n{",
    "\U0001f600\U00020000\U000e0001\u0301",
    "0123",
    "1e5",
    "1,234",
    "-0",
    "2020-02-30",
    "2020-03-05T10:00:00Z",
    "",
]
TRANSACTIONS = EventTable(
    ["TRDATETIME", "MCC", "amount", "currency", "rating"],
    [
        ["2020-03-05 10:00:00", "Groceries", "1250.00", "RUB", "5"],
        ["2020-03-05 12:30:00", "Fuel", "-300.5", "RUB", ""],
        ["2020-03-05 18:00:00", "Groceries", "12345", "", "4"],
        ["2020-04-01 00:00:00", "Groceries", "70.10", "RUB", "3"],
        ["2020-04-01 09:00:00", "Fuel", "99", "RUB", "1"],
    ],
)

values = st.one_of(
    st.text(max_size=8),
    st.sampled_from(HOSTILE),
    st.text(alphabet="|\\\"'`*<>&;,:#-+ \n{}[]()_~", max_size=8),
    st.dates().map(str),
    st.datetimes().map(lambda time: str(time.replace(microsecond=0))),
    st.decimals(-(10**7), 10**7, places=2).map(str),
    st.integers(-9, 10**7).map(str),
)
headers = st.lists(
    st.one_of(values, st.sampled_from(["date", "day", "amount", "value", "Amount", "#", "group", "columns", "rows"])),
    min_size=1,
    max_size=4,
)


@st.composite
def tables(draw):
    """Tables of any values; some columns have few distinct values, or only dates, or nothing."""
    header = draw(headers)
    n_events = draw(st.integers(0, 6))
    kinds = st.sampled_from(
        [
            values,
            st.sampled_from(draw(st.lists(values, min_size=1, max_size=2))),
            st.dates().map(str),
            st.just(""),
        ]
    )
    columns = [draw(st.lists(draw(kinds), min_size=n_events, max_size=n_events)) for _ in header]
    return EventTable(header, [list(row) for row in zip(*columns, strict=True)])


def canonical(table):
    return EventTable(table.header, [[canonical_value(value) for value in row] for row in table.rows])


def renderings(name, table, **variation):
    return [FORMATS[name].render(table, random.Random(seed), Variation(**variation)) for seed in range(N_LAYOUTS)]


@pytest.mark.parametrize("name", LOSSLESS)
@given(table=tables(), seed=st.integers(0, 2**32))
@example(table=EventTable(["a", "b"], [[value, value] for value in HOSTILE]), seed=0)
@example(table=EventTable(HOSTILE, [HOSTILE, HOSTILE]), seed=1)
def test_every_table_can_be_read_back_from_a_lossless_format(name, table, seed):
    text = FORMATS[name].render(table, random.Random(seed))
    assert restore(read(name, text), table.header) == canonical(table)


@pytest.mark.parametrize("name", FORMATS)
@given(table=tables(), seed=st.integers(0, 2**32))
@example(table=EventTable(["a", "b"], [[value, value] for value in HOSTILE]), seed=0)
@example(table=EventTable(HOSTILE, [HOSTILE, HOSTILE]), seed=1)
def test_a_text_looks_like_its_format(name, table, seed):
    text = FORMATS[name].render(table, random.Random(seed))
    assert FORMATS[name].looks_like(text)
    assert FORMATS[name].looks_like(f"{text}\n\n{text}\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json", "Sure: {}"),
        ("json", '{"a": 1} BUY NOW'),
        ("json", "a: 1"),
        ("xml", '{"a": 1}'),
        ("html", "# Events"),
        ("sql", "SELECT 1"),
        ("yaml", '{"a": 1}'),
        ("yaml", "<a>1</a>"),
        ("yaml", "On 5 March you paid 7."),
        ("markdown", "[1, 2]"),
        ("markdown", "On 5 March you paid 7."),
        ("narrative", '[{"a": 1}]'),
        ("narrative", "<table></table>"),
        *[(name, "") for name in ("json", "xml", "html", "sql", "yaml", "markdown")],
    ],
)
def test_a_text_of_an_obviously_different_format_does_not(name, text):
    assert not FORMATS[name].looks_like(text)


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_are_read_back_exactly_from_every_layout(name, value):
    table = EventTable(["merchant", "note"], [[value, "x"], ["y", value], [value, "z"], ["y", value]])
    for text in renderings(name, table, names=False, values=False):
        parsed = read(name, text)
        columns = dict(zip(parsed.header, zip(*parsed.rows, strict=True), strict=True))
        assert columns == {"merchant": (value, "y", value, "y"), "note": ("x", value, "z", value)}


@pytest.mark.parametrize("name", LOSSLESS)
def test_typical_events_are_read_back_from_every_layout(name):
    for text in renderings(name, TRANSACTIONS):
        assert restore(read(name, text), TRANSACTIONS.header) == canonical(TRANSACTIONS)


@pytest.mark.parametrize("name", LOSSLESS)
def test_user_without_events_keeps_the_names_of_the_fields(name):
    table = EventTable(["date", "amount"], [])
    for text in renderings(name, table):
        assert restore(read(name, text), table.header) == table


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [[], [["", ""]], [["", ""], ["", ""]]], ids=["none", "one", "two"])
def test_text_is_never_empty(name, rows):
    assert all(text.strip() for text in renderings(name, EventTable(["date", "amount"], rows)))


@pytest.mark.parametrize("name", FORMATS)
def test_equal_generators_give_equal_texts(name):
    assert renderings(name, TRANSACTIONS) == renderings(name, TRANSACTIONS)


@pytest.mark.parametrize("name", FORMATS)
def test_different_generators_almost_always_give_different_texts(name):
    two_events = EventTable(TRANSACTIONS.header, TRANSACTIONS.rows[:2])
    assert len(set(renderings(name, two_events))) > 0.95 * N_LAYOUTS


@pytest.mark.parametrize("name", LOSSLESS)
def test_names_stay_as_they_are_unless_varied(name):
    for text in renderings(name, TRANSACTIONS, names=False):
        assert set(read(name, text).header) == set(TRANSACTIONS.header)


@pytest.mark.parametrize("name", LOSSLESS)
def test_values_stay_as_they_are_unless_varied(name):
    for text in renderings(name, TRANSACTIONS, names=False, values=False):
        parsed = read(name, text)
        order = [parsed.header.index(field) for field in TRANSACTIONS.header]
        assert [[row[position] for position in order] for row in parsed.rows] == TRANSACTIONS.rows


@pytest.mark.parametrize("name", [*LOSSLESS, "narrative"])
def test_analysis_ends_some_texts_unless_turned_off(name):
    def analysed(**variation):
        texts = renderings(name, TRANSACTIONS, values=False, **variation)
        return sum("Average" in text or "Highest" in text or "in total" in text for text in texts)

    assert 0 < analysed() < N_LAYOUTS
    assert analysed(analysis=False) == 0


def test_dates_and_amounts_are_written_in_many_ways():
    texts = "\n".join(renderings("markdown", TRANSACTIONS))
    for way in ["2020-03-05", "5 March 2020", "March 5, 2020", "5 Mar 2020", "05.03.2020", "2020/03/05"]:
        assert way in texts
    for way in ["12345", "12,345", "12 345", "+12,345"]:
        assert way in texts


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("json", '"group": "{}"'),
        ("markdown", "## {}\n"),
        ("html", "<h2>{}</h2>"),
        ("xml", '<group label="{}">'),
        ("yaml", "group: {}\n"),
    ],
)
def test_events_are_sometimes_grouped_by_day_and_by_category(name, heading):
    texts = renderings(name, TRANSACTIONS, names=False, values=False)
    assert any(heading.format("2020-03-05") in text for text in texts)
    assert any(heading.format("Groceries") in text for text in texts)


@pytest.mark.parametrize("name", ["json", "markdown", "html", "xml", "yaml"])
@pytest.mark.parametrize("label", ["2020-03-05", "Groceries"])
def test_grouped_events_are_read_back_in_their_order(name, label):
    texts = renderings(name, TRANSACTIONS, names=False, values=False, analysis=False)
    headings = [f'"{label}"', f"## {label}\n", f"<h2>{label}</h2>", f'<group label="{label}">', f"group: {label}\n"]
    heading = dict(zip(["json", "markdown", "html", "xml", "yaml"], headings, strict=True))[name]
    grouped = [text for text in texts if heading in text and (name != "json" or '"group"' in text)]
    assert grouped
    for text in grouped:
        assert restore(read(name, text), TRANSACTIONS.header) == canonical(TRANSACTIONS)


@pytest.mark.parametrize("name", LOSSLESS)
def test_order_of_the_fields_varies(name):
    texts = renderings(name, TRANSACTIONS, names=False)
    assert len({tuple(read(name, text).header) for text in texts}) > 10


@pytest.mark.parametrize("name", LOSSLESS)
def test_names_of_the_fields_are_paraphrased(name):
    spelt = {field for text in renderings(name, TRANSACTIONS) for field in read(name, text).header}
    assert spelt & {"transactionTime", "transaction_time", "Transaction Time", "transaction time"}
    assert len(spelt) > 20


@pytest.mark.parametrize("name", LOSSLESS)
def test_no_two_fields_have_names_that_differ_only_in_case(name):
    header = ["date", "day", "amount", "value", "sum", "Amount", "", ""]
    for text in renderings(name, EventTable(header, [["x"] * len(header)] * 2)):
        assert len({field.casefold() for field in read(name, text).header}) == len(header)


def test_a_code_made_of_digits_is_not_treated_as_an_amount():
    table = EventTable(["mcc", "trx_amount"], [["5411", "5411"], ["5812", "5812"]])
    texts = renderings("html", table, names=False)
    assert all("<td>5411</td>" in text or "<span>5411" in text or "<dd>5411" in text for text in texts)
    assert any("5,411" in text for text in texts)


def test_json_keeps_all_digits_of_a_number():
    texts = renderings("json", EventTable(["amount"], [["1.10"], ["12345678901234567890.50"]]), names=False)
    assert all("1.10" in text and "12345678901234567890.50" in text for text in texts)


def test_yaml_reads_the_same_under_the_safe_loader():
    table = EventTable(["merchant"], [["no"], ["null"], ["Fast Food"], ["1_000"], ["~"], ["12:30:00"], ["1e5"]])
    for text in renderings("yaml", table, names=False, analysis=False):
        assert set(_leaves(yaml.safe_load(text))) >= {row[0] for row in table.rows}


def test_a_date_that_the_calendar_lacks_is_a_text_in_yaml():
    table = EventTable(["due"], [["0000-00-00"], ["2024-02-30"], ["2023-02-29"], ["9999-99-99"]])
    for text in renderings("yaml", table, names=False, analysis=False):
        assert set(_leaves(yaml.safe_load(text))) >= {row[0] for row in table.rows}


def test_an_sql_script_fills_a_real_database_with_the_same_values():
    hostile = [value for value in HOSTILE if value.isprintable() and ("'" in value or "INSERT" in value)]
    table = EventTable(["name"], [[value] for value in hostile])
    scripts = [text for text in renderings("sql", table, names=False) if "CREATE TABLE user_events" in text]
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(scripts[0])
        assert [row[0] for row in database.execute("SELECT name FROM user_events")] == hostile


@pytest.mark.parametrize("value", HOSTILE)
def test_xml_is_well_formed_and_json_is_json(value):
    table = EventTable(["merchant"], [[value], [value]])
    for text in renderings("xml", table):
        ElementTree.fromstring(text.encode())
    for text in renderings("json", table):
        for document in text.split("\n") if "}\n{" in text else [text]:
            json.loads(document)


@given(table=tables(), seed=st.integers(0, 2**32))
def test_a_narrative_contains_every_value(table, seed):
    text = FORMATS["narrative"].render(table, random.Random(seed), Variation(values=False))
    for row in table.rows:
        for value in row:
            assert printable(value) in text


@given(table=tables(), seed=st.integers(0, 2**32))
def test_a_breakdown_summarises_any_table(table, seed):
    assert str(len(table.rows)) in FORMATS["breakdown"].render(table, random.Random(seed))


def test_a_breakdown_contains_totals_and_counts():
    for text in renderings("breakdown", TRANSACTIONS, names=False, values=False):
        assert "13463.60" in text
        assert "Groceries" in text
        assert "by day" in text.lower() or "by month" in text.lower()


def test_a_period_goes_from_the_earliest_date_to_the_latest_and_names_dates_that_are_not_in_order():
    table = EventTable(["time", "due"], [["2024-01-01", "2024-09-01"], ["2024-01-02", "2024-02-01"]])
    texts = renderings("breakdown", table, names=False, values=False) + renderings("markdown", table, names=False)
    assert any("due: from 2024-02-01 to 2024-09-01" in text for text in texts)
    for text in texts:
        assert "2024-09-01 to" not in text
        assert not re.search("(?i)(runs|events|records|entries) from 2024-02", text)
        assert not re.search("(?i)by (day|month)(?! of (time|due))", text)


@pytest.mark.parametrize("precision", [6, 28])
def test_measures_are_exact_and_lie_between_the_numbers(precision):
    small = EventTable(["amount"], [["0.001"], ["0.002"], ["0.004"]])
    large = EventTable(["amount"], [["12345678.00"], ["3.33"]])
    with localcontext(prec=precision):
        for text in renderings("breakdown", small, names=False, values=False):
            assert re.search(r"Average\W+0\.002\b", text)
        for text in renderings("breakdown", large, names=False, values=False):
            assert re.search(r"Total\W+12345681\.33\b", text)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("5 March 2020", "2020-03-05"),
        ("Mar 5, 2020", "2020-03-05"),
        ("05.03.2020, 10:30:15", "2020-03-05 10:30:15"),
        ("2020-03-05T10:30", "2020-03-05 10:30"),
        ("2020-03-05 00:00:00", "2020-03-05"),
        ("5 Marsh 2020", "5 Marsh 2020"),
        ("-1 234.50", "-1234.50"),
        ("1,23", "1,23"),
        ("", ""),
    ],
)
def test_canonical_value(written, read):
    assert canonical_value(written) == read


@given(values)
def test_canonical_value_is_stable(value):
    assert canonical_value(canonical_value(value)) == canonical_value(value)


def test_restore_rejects_names_that_no_spelling_gives():
    with pytest.raises(ValueError, match="not spellings"):
        restore(EventTable(["colour"], []), ["amount"])


def test_formats_are_keyed_by_their_names():
    assert {name: text_format.name for name, text_format in FORMATS.items()} == {name: name for name in FORMATS}


def _leaves(node):
    if isinstance(node, dict):
        node = node.values()
    return [leaf for item in node for leaf in _leaves(item)] if not isinstance(node, str) else [node]
