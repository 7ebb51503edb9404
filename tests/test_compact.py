"""The compact form: `parse_events` inverts it exactly, and it needs half the tokens."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skllm4es import EventSerializer
from skllm4es.datasets import fetch_movielens_100k, make_transactions
from skllm4es.lm.from_scratch import train_tokenizer
from skllm4es.serialize import EventTable, parse_events
from skllm4es.serialize._compact import CompactColumn, format_compact, plan_columns
from skllm4es.vocabularies import load_mcc_names

DAY, STORE = CompactColumn("day", words=True, code="+"), CompactColumn("store", words=False, code="~")

FIELD = (
    st.text(st.sampled_from(list(' , |"\n\r\t;a0+~-é😀\u2028')), max_size=6)
    | st.sampled_from(["Grocery Stores, Supermarkets", "Grocery", "Grocery Shop", "2024-01-01 10:00:00", "2024-02-29"])
    | st.sampled_from(
        [
            "2024-02-31",
            "2024-01-02 24:00:00",
            "9999-12-31",
            "2024-01-01 09:59:59.75",
            "2024-01-01 10:00:00.50",
            "-5",
            "17",
            "0",
            "007",
            "-0",
            "\u0661",
            "9" * 30,
        ]
    )
    | st.text(max_size=5)
)


@st.composite
def events(draw):
    columns = draw(
        st.lists(
            st.builds(CompactColumn, FIELD, st.booleans(), st.sampled_from(["", "+", "~"])), min_size=1, max_size=4
        )
    )
    # Few values, so that they repeat.
    values = st.sampled_from(draw(st.lists(FIELD, min_size=1, max_size=6)))
    return columns, draw(st.lists(st.tuples(*[values] * len(columns)), max_size=8))


@given(events())
def test_round_trip_over_any_text(case):
    columns, rows = case
    expected = EventTable([column.name for column in columns], [list(row) for row in rows])
    assert parse_events(format_compact(columns, list(zip(*rows, strict=True)) or [()] * len(columns))) == expected


def test_the_form_is_as_documented():
    columns = [
        CompactColumn("currency", words=True),
        CompactColumn("type", words=True),
        DAY,
        CompactColumn("amount", words=True),
        STORE,
    ]
    rows = [
        ("EUR", "POS", "2024-03-01", "12.5", "Grocery Stores, Supermarkets"),
        ("EUR", "POS", "2024-03-04", "8.99", "Grocery Stores, Supermarkets"),
        ("EUR", "ATM", "2024-03-04", "60", "Cash Machines"),
    ]
    text = (
        "|currency type day+ amount store~\n"
        'EUR POS "2024-03-01" 12.5 Grocery Stores, Supermarkets\n'
        "  3 8.99 Grocery\n"
        " ATM  60 Cash Machines"
    )
    assert format_compact(columns, list(zip(*rows, strict=True))) == text


def test_a_value_that_is_the_short_form_of_another_is_quoted():
    stores = ["Grocery Stores", "Grocery", "Grocery Stores", "Grocery"]
    assert format_compact([STORE], [stores]) == '|store~\nGrocery Stores\n"Grocery"\nGrocery\n"Grocery"'


@pytest.mark.parametrize(
    ("first", "second", "written"),
    [
        ("2024-02-28", "2024-03-01", "2"),
        ("2024-02-28 23:59:59", "2024-02-29 00:00:01", "2"),
        ("17", "5", "-12"),
        ("2024-02-28", "2024-03-01 00:00:00", '"2024-03-01 00:00:00"'),
        ("2024-02-28 10:00:00.5", "2024-02-28 10:00:01", "0.5"),
        ("2024-02-28 10:00:00.000000001", "2024-02-28 09:59:59.9", "-0.100000001"),
        ("", "17", '"17"'),
    ],
)
def test_points_in_time_are_distances_if_possible(first, second, written):
    assert format_compact([DAY], [[first, second]]).split("\n")[2] == written


def test_the_largest_distance_between_numbers_is_read_again():
    ends = -(10**18) + 1, 10**18 - 1
    X = pd.DataFrame({"events": [[{"t": t, "word": "a"} for t in ends]]})
    (text,) = EventSerializer(compact=True, time="t").fit_transform(X)["text"]
    assert str(ends[1] - ends[0]) in text
    table = parse_events(text)
    assert [row[table.header.index("t")] for row in table.rows] == list(map(str, ends))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("|a b\n x", "Event 1 of the text, ' x', is not in the compact form: its field 'a' is empty"),
        ('|a+\n"x"\n3', "the distance '3' follows 'x', which is not a whole number, date or time"),
        ('|a+\n"2024-03-01"\nsoon', "Event 2 of the text, 'soon'"),
        ('|a+\n"9999-12-31"\n1', "Event 2 of the text, '1'"),
        ('|a+\n"2024-03-01"\n1.5', "'1.5' is not a distance"),
        ("|a|b\nx", "it ends before the field 'b'"),
        ('|a|b\n"x"y|z', "Text after the closing quote"),
        ('|a\n"x"y', "text after the closing quote"),
        ('|a\n"x', "not closed"),
        ('|"a', "header of a text in the compact form is broken"),
        ("|", "header of a text in the compact form is broken"),
    ],
)
def test_broken_texts_are_rejected(text, message):
    with pytest.raises(ValueError, match=message):
        parse_events(text)


def test_columns_of_words_come_first_beginning_with_the_most_repetitive():
    texts = {
        "amount": ["1", "2", "3", "3"],
        "store": ["a b", "a b", "a b", "c d"],
        "title": ["e f", "g", "h", "i"],
        "currency": ["EUR"] * 4,
    }
    plan = plan_columns(texts, [0, 2, 4], points=[])
    assert [(column.name, column.code) for column in plan] == [
        ("currency", ""),
        ("amount", ""),
        ("store", ""),
        ("title", ""),
    ]


def test_texts_that_a_user_repeats_are_shortened():
    assert plan_columns({"store": ["a b", "a b", "a b"]}, [0, 3], points=[])[0].code == "~"
    assert plan_columns({"store": ["a b", "a b", "a b"]}, [0, 1, 2, 3], points=[])[0].code == ""


def test_compact_texts_hold_the_same_events(as_kind):
    X, _ = make_transactions(20, mean_events=20, random_state=0)
    X, events = as_kind(X)
    labels = {"mcc": load_mcc_names()}
    plain = EventSerializer(labels=labels, events=events).fit_transform(X)["text"]
    serializer = EventSerializer(labels=labels, events=events, compact=True)
    compact = serializer.fit_transform(X)["text"]
    assert serializer.columns_ != EventSerializer(events=events).fit(X).columns_
    for text, other in zip(plain.to_list(), compact.to_list(), strict=True):
        table, same = parse_events(text), parse_events(other)
        positions = [table.header.index(name) for name in same.header]
        assert same.rows == [[row[position] for position in positions] for row in table.rows]


def assert_half_the_tokens(X, **params):
    forms = []
    for compact in (False, True):
        texts = EventSerializer(compact=compact, **params).fit_transform(X)["text"].to_list()
        # Each form has a tokenizer that was trained on its own texts.
        forms.append(sum(map(len, train_tokenizer(texts, 4096)(texts)["input_ids"])))
    assert forms[1] <= forms[0] / 2


def test_transactions_need_half_the_tokens():
    X, _ = make_transactions(60, random_state=0)
    assert_half_the_tokens(X, labels={"mcc": load_mcc_names()})


@pytest.mark.real_data
def test_movielens_needs_half_the_tokens(data_home):
    X, _ = fetch_movielens_100k(data_home=data_home, return_X_y=True, download_if_missing=False)
    assert_half_the_tokens(X[:200])
