"""The code-to-description tables: complete, clean, and usable as labels."""

import pandas as pd
import pytest

from skllm4es import EventSerializer
from skllm4es.serialize import parse_events
from skllm4es.vocabularies import load_currency_names, load_mcc_names


@pytest.fixture(scope="module")
def names() -> pd.Series:
    return load_mcc_names()


@pytest.mark.parametrize(
    ("code", "description"),
    [
        (742, "Veterinary Services"),
        (5411, "Grocery Stores, Supermarkets"),
        (5812, "Eating Places, Restaurants"),
        (6011, "Financial Institutions - Automated Cash Disbursements"),
        (9311, "Tax Payments"),
    ],
)
def test_well_known_codes_have_their_names(names, code, description):
    assert names[code] == description


@pytest.mark.parametrize(
    ("code", "merchant"),
    [(3000, "United Airlines"), (3008, "Lufthansa"), (3389, "Avis Rent-a-Car"), (3504, "Hilton")],
)
def test_airlines_car_rentals_and_hotels_are_listed_one_by_one(names, code, merchant):
    assert names[code] == merchant


def test_the_private_range_is_covered(names):
    assert names.loc[3000:3350].size > 190
    assert names.loc[3351:3500].size > 50
    assert names.loc[3501:3999].size > 320


def test_the_table_is_indexed_by_integer_codes(names):
    assert names.index.dtype == "int64"
    assert names.index.name == "mcc"
    assert names.name == "description"


def test_codes_are_unique_ascending_and_have_at_most_four_digits(names):
    assert names.index.is_unique
    assert names.index.is_monotonic_increasing
    assert names.index.min() > 0
    assert names.index.max() < 10_000


def test_all_codes_of_the_standard_and_the_networks_are_there(names):
    assert len(names) == 930


def test_no_description_is_missing_or_blank(names):
    assert names.notna().all()
    assert names.str.len().min() >= 4


def test_descriptions_are_plain_ascii_text(names):
    assert names.map(str.isascii).all()
    assert not names.str.contains(r'[<>"\r\n\t|]').any()


def test_descriptions_have_no_stray_spaces(names):
    assert (names == names.str.strip()).all()
    assert not names.str.contains("  ", regex=False).any()


def test_descriptions_begin_with_a_capital_and_are_not_all_capitals(names):
    assert not names.str[0].str.islower().any()
    assert not names[names.str.len() > 5].str.isupper().any()


def test_the_table_serves_as_labels_for_a_column_of_codes(names):
    X = pd.DataFrame({"events": [[{"mcc": 5411}, {"mcc": 6010}, {"mcc": 5411}]]})
    (text,) = EventSerializer(labels={"mcc": names}).fit_transform(X)["text"]
    assert parse_events(text).rows == [[names[5411]], [names[6010]], [names[5411]]]


def test_each_call_returns_a_new_series(names):
    changed = load_mcc_names()
    changed[5411] = "Groceries"
    assert load_mcc_names()[5411] == names[5411]


@pytest.mark.parametrize(
    ("code", "name"),
    [(8, "Lek"), (643, "Russian Ruble"), (810, "Russian Ruble (before 1998)"), (840, "US Dollar"), (978, "Euro")],
)
def test_currencies_have_their_names(code, name):
    assert load_currency_names()[code] == name


def test_the_currencies_are_complete_and_clean():
    names = load_currency_names()
    assert len(names) == 179
    assert names.index.is_unique
    assert names.index.is_monotonic_increasing
    assert names.index.name == "currency"
    assert names.map(lambda name: isinstance(name, str) and name == name.strip() != "").all()
