"""What the simulated card holders buy: merchant categories and kinds of card holders.

Only tables, which `make_transactions` turns into arrays. The figures are plausible, not estimated.
"""

from typing import NamedTuple


class Merchant(NamedTuple):
    """A merchant category."""

    mcc: int
    group: str
    popularity: float  # share of the group's purchases, up to a constant
    amount: float  # median amount
    spread: float  # standard deviation of the amount's logarithm
    online: float  # share of purchases that are made online
    hours: str  # which of HOURS


MERCHANTS = (
    Merchant(5411, "groceries", 10, 24, 0.75, 0.04, "day"),
    Merchant(5499, "groceries", 4, 8, 0.60, 0.02, "day"),
    Merchant(5462, "groceries", 2, 6, 0.50, 0.00, "morning"),
    Merchant(5441, "groceries", 0.7, 7, 0.60, 0.02, "day"),
    Merchant(5921, "groceries", 1.2, 18, 0.60, 0.03, "evening"),
    Merchant(5993, "groceries", 1, 9, 0.40, 0.00, "day"),
    Merchant(5200, "home", 3, 45, 0.90, 0.10, "day"),
    Merchant(5251, "home", 1.5, 19, 0.80, 0.05, "day"),
    Merchant(5712, "home", 0.8, 160, 0.90, 0.30, "day"),
    Merchant(5722, "home", 0.8, 140, 0.90, 0.40, "day"),
    Merchant(5261, "home", 1, 26, 0.70, 0.10, "day"),
    Merchant(4900, "home", 3, 70, 0.50, 0.95, "office"),
    Merchant(6300, "home", 0.8, 95, 0.60, 0.95, "office"),
    Merchant(5641, "children", 3, 28, 0.60, 0.20, "day"),
    Merchant(5945, "children", 3, 24, 0.70, 0.30, "day"),
    Merchant(8351, "children", 1, 180, 0.40, 0.50, "morning"),
    Merchant(8211, "children", 0.8, 60, 0.70, 0.50, "morning"),
    Merchant(5812, "dining", 6, 32, 0.60, 0.06, "evening"),
    Merchant(5814, "dining", 8, 11, 0.50, 0.25, "lunch"),
    Merchant(5813, "dining", 3, 19, 0.60, 0.00, "night"),
    Merchant(5811, "dining", 0.5, 48, 0.70, 0.50, "lunch"),
    Merchant(5541, "car", 6, 48, 0.40, 0.00, "day"),
    Merchant(5542, "car", 3, 44, 0.40, 0.00, "any"),
    Merchant(7523, "car", 4, 5, 0.60, 0.30, "day"),
    Merchant(7538, "car", 0.8, 150, 0.80, 0.02, "office"),
    Merchant(7542, "car", 1, 12, 0.40, 0.00, "day"),
    Merchant(4111, "transport", 8, 3, 0.50, 0.30, "commute"),
    Merchant(4121, "transport", 4, 13, 0.50, 0.60, "night"),
    Merchant(4131, "transport", 2, 9, 0.70, 0.40, "commute"),
    Merchant(4112, "transport", 2, 24, 0.80, 0.60, "commute"),
    Merchant(3008, "travel", 1, 230, 0.60, 0.95, "any"),
    Merchant(3246, "travel", 1.5, 75, 0.70, 0.98, "any"),
    Merchant(4722, "travel", 1, 310, 0.80, 0.70, "office"),
    Merchant(7011, "travel", 2, 130, 0.60, 0.50, "any"),
    Merchant(3504, "travel", 0.8, 190, 0.50, 0.40, "any"),
    Merchant(3389, "travel", 0.6, 150, 0.60, 0.50, "day"),
    Merchant(7991, "travel", 1.5, 18, 0.50, 0.30, "day"),
    Merchant(5815, "digital", 2, 10, 0.40, 1.00, "evening"),
    Merchant(5816, "digital", 3, 8, 0.80, 1.00, "night"),
    Merchant(5817, "digital", 2, 5, 0.60, 1.00, "evening"),
    Merchant(4814, "digital", 2, 15, 0.40, 0.90, "day"),
    Merchant(4899, "digital", 2, 13, 0.30, 1.00, "any"),
    Merchant(5732, "digital", 1, 85, 1.00, 0.50, "day"),
    Merchant(5651, "clothing", 4, 42, 0.60, 0.35, "day"),
    Merchant(5621, "clothing", 2, 38, 0.60, 0.35, "day"),
    Merchant(5661, "clothing", 2, 58, 0.50, 0.35, "day"),
    Merchant(5691, "clothing", 2, 46, 0.60, 0.40, "day"),
    Merchant(5977, "clothing", 2, 22, 0.60, 0.30, "day"),
    Merchant(5912, "health", 6, 14, 0.70, 0.08, "day"),
    Merchant(8011, "health", 1.5, 60, 0.60, 0.05, "office"),
    Merchant(8021, "health", 0.8, 110, 0.80, 0.02, "office"),
    Merchant(8043, "health", 0.5, 120, 0.60, 0.10, "day"),
    Merchant(7230, "health", 2, 30, 0.50, 0.05, "day"),
    Merchant(7832, "leisure", 2, 18, 0.40, 0.60, "evening"),
    Merchant(7922, "leisure", 1, 55, 0.60, 0.85, "any"),
    Merchant(7995, "leisure", 2, 20, 1.00, 0.80, "night"),
    Merchant(7997, "leisure", 1.5, 40, 0.40, 0.40, "evening"),
    Merchant(5941, "leisure", 1.2, 46, 0.70, 0.30, "day"),
    Merchant(5942, "leisure", 1.5, 17, 0.50, 0.30, "day"),
    Merchant(5311, "other", 3, 40, 0.80, 0.15, "day"),
    Merchant(5999, "other", 3, 20, 0.80, 0.30, "day"),
    Merchant(9311, "other", 0.5, 220, 1.00, 0.90, "office"),
    Merchant(9402, "other", 1, 8, 0.60, 0.10, "office"),
)

# How cash leaves the account; MERCHANTS are purchases.
CASH_WITHDRAWAL, WIRE_TRANSFER, PERSONAL_TRANSFER, SALARY = 6011, 4829, 6538, 6532


class Archetype(NamedTuple):
    """A kind of card holder."""

    name: str
    share: float
    income: float  # median monthly income
    spending: float  # factor on the amounts
    cash: float  # share of withdrawals and transfers among the events
    trips: float  # mean number of journeys abroad in the year
    risk: float  # added to the score of the label
    groups: dict[str, float]  # share of purchases, up to a constant


ARCHETYPES = (
    Archetype(
        "family", 0.30, 3200, 1.1, 0.07, 0.6, -0.3,
        {"groceries": 34, "home": 12, "children": 12, "dining": 8, "car": 12, "transport": 3, "travel": 2,
         "digital": 5, "clothing": 8, "health": 8, "leisure": 4, "other": 6},
    ),
    Archetype(
        "student", 0.20, 900, 0.6, 0.12, 0.4, 0.5,
        {"groceries": 24, "home": 2, "children": 0.3, "dining": 24, "car": 2, "transport": 18, "travel": 2,
         "digital": 14, "clothing": 7, "health": 4, "leisure": 9, "other": 4},
    ),
    Archetype(
        "professional", 0.22, 4200, 1.3, 0.06, 1.2, 0.0,
        {"groceries": 20, "home": 6, "children": 2, "dining": 22, "car": 9, "transport": 12, "travel": 5,
         "digital": 9, "clothing": 8, "health": 6, "leisure": 7, "other": 5},
    ),
    Archetype(
        "traveller", 0.10, 3600, 1.2, 0.08, 3.5, 0.3,
        {"groceries": 14, "home": 3, "children": 1, "dining": 22, "car": 6, "transport": 15, "travel": 16,
         "digital": 8, "clothing": 6, "health": 4, "leisure": 8, "other": 4},
    ),
    Archetype(
        "pensioner", 0.18, 1500, 0.8, 0.16, 0.3, -0.4,
        {"groceries": 42, "home": 12, "children": 2, "dining": 5, "car": 6, "transport": 6, "travel": 2,
         "digital": 3, "clothing": 5, "health": 18, "leisure": 4, "other": 7},
    ),
)  # fmt: skip

# Weight of each hour of the day, from midnight on.
HOURS = {
    "any": [2, 1, 1, 1, 1, 2, 4, 6, 8, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 8, 6, 4],
    "morning": [0, 0, 0, 0, 0, 1, 4, 9, 10, 8, 6, 5, 4, 3, 2, 2, 2, 2, 1, 0, 0, 0, 0, 0],
    "office": [0, 0, 0, 0, 0, 0, 0, 1, 5, 9, 10, 9, 6, 6, 8, 8, 6, 3, 1, 0, 0, 0, 0, 0],
    "commute": [0, 0, 0, 0, 0, 2, 7, 10, 8, 3, 2, 2, 3, 3, 3, 5, 8, 10, 7, 4, 2, 2, 1, 1],
    "day": [0, 0, 0, 0, 0, 0, 1, 3, 5, 7, 8, 8, 7, 6, 6, 7, 9, 10, 9, 7, 4, 2, 0, 0],
    "lunch": [0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 3, 7, 10, 9, 4, 3, 3, 4, 6, 7, 5, 3, 2, 1],
    "evening": [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 4, 3, 3, 5, 7, 9, 10, 9, 7, 4, 2],
    "night": [7, 6, 4, 3, 1, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 4, 5, 6, 8, 9, 10, 10, 9],
    "late": [9, 10, 9, 7, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 8],
}

# Weight of each day of the week, from Monday on.
WEEKDAYS = {
    "working": [10, 10, 10, 10, 10, 3, 2],
    "shopping": [8, 8, 8, 9, 12, 15, 9],
    "outing": [5, 5, 6, 8, 14, 16, 11],
}
WEEKDAYS_OF_GROUP = {"transport": "working", "dining": "outing", "leisure": "outing", "travel": "outing"}

# How the trait leaning shifts purchases to each group, on the log scale.
LEANING = {
    "groceries": -0.5, "home": -0.9, "children": -0.6, "dining": 0.9, "car": -0.2, "transport": 0.1,
    "travel": 0.5, "digital": 0.7, "clothing": 0.2, "health": -0.5, "leisure": 0.9, "other": 0.0,
}  # fmt: skip

HOME_CURRENCY = "EUR"
FOREIGN_CURRENCIES = {"USD": 1.09, "GBP": 0.86, "CHF": 0.96}  # units for one EUR
