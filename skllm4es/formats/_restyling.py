"""The values of the fields: what kind of values a column holds, and other ways to write them.

Dates and amounts are written in another way, the same for a whole column; other values stay as they are.
`canonical_value` converts all these ways to one form, in which values can be compared.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection
from typing import Literal, get_args

from skllm4es.formats._names import split_words

Kind = Literal["date", "amount", "score", "category", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_AMOUNTS = {
    "amount",
    "balance",
    "cost",
    "fee",
    "income",
    "payment",
    "price",
    "spend",
    "sum",
    "total",
    "value",
}
_SCORES = {"grade", "rating", "score", "stars"}

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_MONTH_NUMBERS = {name: f"{i:02}" for i, month in enumerate(_MONTHS, start=1) for name in (month, month[:3])}

_TIME = r"(?P<time>\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)"
_ISO_DAY = r"(?P<year>\d{4})-(?P<month>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])"
_ISO = re.compile(f"{_ISO_DAY}(?:[ T]{_TIME})?", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d+)?", re.ASCII)

_DATE_STYLES = (
    "{year}-{month}-{day}",
    "{year}/{month}/{day}",
    "{day}.{month}.{year}",
    "{short_day} {month_name} {year}",
    "{month_name} {short_day}, {year}",
    "{short_day} {short_month_name} {year}",
)
_TIME_JOINS = (" ", ", ", " at ")
_THOUSANDS = ("", ",", " ")

_WRITTEN_DATES = [
    re.compile(f"{day}(?:(?: |, | at |T){_TIME})?", re.ASCII)
    for day in (
        _ISO_DAY,
        r"(?P<year>\d{4})/(?P<month>\d\d)/(?P<day>\d\d)",
        r"(?P<day>\d\d)\.(?P<month>\d\d)\.(?P<year>\d{4})",
        r"(?P<day>\d\d?) (?P<name>[A-Z][a-z]+) (?P<year>\d{4})",
        r"(?P<name>[A-Z][a-z]+) (?P<day>\d\d?), (?P<year>\d{4})",
    )
]
_WRITTEN_NUMBER = re.compile(r"[+-]?\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+|\d*)(?:\.\d+)?", re.ASCII)
_MIDNIGHT = re.compile(r"00:00(?::00(?:\.0+)?)?")


def column_kind(name: str, values: Collection[str], n_events: int) -> Kind:
    """Return the kind of values that a column holds, from its name and its distinct values.

    It is "date" if all values are ISO dates, with or without a time; "amount" for numbers whose sum has a meaning, and
    "score" for numbers of which only the mean has one, both recognised by the name, because codes can be digits, too;
    "category" for values that repeat; otherwise "text". Empty values are missing, and fit every kind.
    """
    present = [value for value in values if value]
    if not present:
        return "text"
    if all(map(_ISO.fullmatch, present)):
        return "date"
    words = split_words(name)
    if not (_AMOUNTS | _SCORES).isdisjoint(words) and all(map(_NUMBER.fullmatch, present)):
        return "score" if _AMOUNTS.isdisjoint(words) else "amount"
    return "category" if len(present) <= n_events // 2 else "text"


def choose_writer(kind: Kind, values: Collection[str], rng: random.Random) -> Callable[[str], str]:
    """Choose a way to write the distinct values of a column; `canonical_value` undoes each of them."""
    if kind == "date":
        return _choose_date_writer(values, rng)
    if kind == "amount":
        return _choose_amount_writer(values, rng)
    return str


def canonical_value(value: str) -> str:
    """Convert a date or a number to the form in which values are compared.

    Parameters
    ----------
    value : str
        A value, written in any of the ways of the formats.

    Returns
    -------
    str
        A date as ``YYYY-MM-DD``, followed by a space and the time of day unless that is midnight; a number without
        thousands separators and without a plus sign; any other value unchanged.

    Examples
    --------
    >>> from skllm4es.formats import canonical_value
    >>> canonical_value("March 5, 2020 at 10:30"), canonical_value("+12,345.60")
    ('2020-03-05 10:30', '12345.60')
    >>> canonical_value("5 o'clock")
    "5 o'clock"
    """
    for pattern in _WRITTEN_DATES:
        if found := pattern.fullmatch(value):
            return _canonical_date(found) or value
    if _WRITTEN_NUMBER.fullmatch(value):
        return value.replace(",", "").replace(" ", "").lstrip("+")
    return value


def _choose_date_writer(values: Collection[str], rng: random.Random) -> Callable[[str], str]:
    style = rng.choice(_DATE_STYLES)
    join = rng.choice(_TIME_JOINS)
    times = {found["time"] for found in map(_ISO.fullmatch, values) if found}
    days_only = all(time is None or _MIDNIGHT.fullmatch(time) for time in times)

    def write(value: str) -> str:
        found = _ISO.fullmatch(value)
        if not found:
            return value
        year, month, day, time = found.groups()
        name = _MONTHS[int(month) - 1]
        date = style.format(
            year=year, month=month, day=day, short_day=int(day), month_name=name, short_month_name=name[:3]
        )
        return date if days_only or time is None else date + join + time

    return write


def _choose_amount_writer(values: Collection[str], rng: random.Random) -> Callable[[str], str]:
    thousands = rng.choice(_THOUSANDS)
    signed = any(value.startswith("-") for value in values) and rng.random() < 0.4

    def write(value: str) -> str:
        if not value:
            return value
        whole, point, fraction = value.lstrip("-").partition(".")
        sign = "-" if value.startswith("-") else "+" if signed else ""
        return sign + f"{int(whole):,}".replace(",", thousands) + point + fraction

    return write


def _canonical_date(found: re.Match[str]) -> str | None:
    parts = found.groupdict()
    month = parts.get("month") or _MONTH_NUMBERS.get(parts["name"])
    if month is None:
        return None
    date = f"{parts['year']}-{month}-{parts['day']:0>2}"
    time = parts["time"]
    return date if time is None or _MIDNIGHT.fullmatch(time) else f"{date} {time}"
