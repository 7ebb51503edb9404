r"""Faithfulness of a rewritten text: which values of the original it keeps, and which of its numbers stem from there.

Rewritings in any markup or prose can be compared. Both texts are split into words and numbers, so that style does not
matter: letter case, markup and its escapes (``&amp;``, ``\"``, ``\u00e9``), the notation of dates and times (to
the minute), thousands separators, trailing zeros, the sign of a number.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property, lru_cache
from statistics import fmean
from typing import NamedTuple

from skllm4es.formats import canonical_value
from skllm4es.serialize import parse_events

# Runs of backslashes, because an escape may itself be escaped: JSON's \n is \\n in Markdown.
_BACKSLASH = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|[nrtbf])?")
_ENTITY = re.compile(r"&(?:amp;)*(?:amp|lt|gt|quot|apos|nbsp|#39|#x27)?;?")
_T_OF_TIMES = re.compile(r"(?<=[0-9])t(?=[0-9]{2}:)")
# Numbers, dates and times are one word each; so is each letter of a script without spaces.
_FIGURES = "[0-9]+(?:[-.:/][0-9]+)+"
_WORD = re.compile(rf"{_FIGURES}|[^\W_\u3040-\u30ff\u3400-\u9fff]+|[\u3040-\u30ff\u3400-\u9fff]")
_ASCII_WORD = re.compile(f"{_FIGURES}|[0-9a-z]+")

_MONTH_NAMES = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES.split("|"), start=1)}
# Patterns begin with their first character and look behind it afterwards, so that `re` can skip all other characters.
_DIGIT = r"[0-9](?<![^\W_].)"
_NUMERIC_DATE = re.compile(
    rf"{_DIGIT}(?:"
    r"[0-9]{3}([-/.])[01]?[0-9]\1[0-3]?[0-9]"
    r"|[0-9]?([-/.])[0-3]?[0-9]\2[0-9]{4}"
    rf"|[0-9]?(?:st|[nr]d|th)?(?: of)?[ -](?:{_MONTH_NAMES})[a-z]{{0,6}}\.?,?[ -][0-9]{{4}}"
    r")(?![^\W_])"
)
_NAMED_DATE = re.compile(rf"(?:{_MONTH_NAMES})[a-z]{{0,6}}\.? [0-3]?[0-9](?:st|[nr]d|th)?,? [0-9]{{4}}(?![^\W_])")
_PARTS_OF_DATE = re.compile(rf"[0-9]+|{_MONTH_NAMES}")
_CANONICAL_DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?: ([0-9]{2}:[0-9]{2}).*)?")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::[0-9]{2})?(?: ?([ap])\.?m\b)?")
# A comma before three digits and a space separates cells: "5,100 250.00" is 5 and 100250.
_NUMBER = re.compile(
    rf"{_DIGIT}(?:[0-9]{{0,2}}(?:(?:,[0-9]{{3}})++(?! [0-9]{{3}}(?![0-9]))|(?: [0-9]{{3}})++)(?![0-9])(?:\.[0-9]++)?"
    r"|[0-9]*+(?:\.[0-9]++)?)(?![^\W_]|\s?%)"
)
_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)
#: Precision of sums: a sum of plain numbers has fewer digits, and with less precision `round` fails.
_SUM_DIGITS = 100
# The number at the beginning of a list item, and values that begin like one.
_NUMBERING = re.compile(r"^[ \t>*_-]*(?:#([0-9]{1,4})[.):]?|([0-9]{1,4})[.)])(?=[\s*_])", re.MULTILINE)
_LIKE_NUMBERING = re.compile(r"^\W*(?:#[0-9]|[0-9]{1,4}[.)](?:\W|$))", re.MULTILINE)
_XML_HEAD = re.compile(r"\s*<\?xml[^>]*>")

Words = tuple[str, ...]


class Faithfulness(NamedTuple):
    """Recall and precision, from 0 to 1, and the values of the original that are missing; see `compare`."""

    recall: float
    precision: float
    missing: list[str]


def compare(original: str, rewritten: str) -> Faithfulness:
    r"""Compare a rewritten text with its original, which must be in the serialised form.

    The Notes of `TextEnricher` define recall and precision. By the definition of recall, a value that many events share
    may occur once, in a heading. The numbers of a list (1., 2., ... or #1, #2, ...) are not values. Empty values and
    those without a letter or a digit do not count, and without values to compare, recall is 1. Percentages are not
    compared, and without numbers, precision is 1.

    Examples
    --------
    >>> from skllm4es.enrich._faithfulness import compare
    >>> compare("date|amount\n2020-03-05, 1250.00\n2020-03-06, 7", "On March 5th, 2020 you paid $1,250, then 9.")
    Faithfulness(recall=0.5, precision=0.6666666666666666, missing=['2020-03-06', '7'])
    """
    source = _read_original(original)
    text = _Text(rewritten, numbered=not source.looks_numbered)
    counts = {value: text.count(value, words, source.n_events[value]) for value, words in source.words.items()}
    missing = [value for value, count in counts.items() if not count]
    if not source.fields:
        return Faithfulness(1.0, _precision(source, text), missing)
    values = fmean([sum([counts[value] > 0 for value in field]) / len(field) for field in source.fields])
    events = [
        sum([min(n_events, counts[value]) for value, n_events in field.items()]) / field.total()
        for field in source.fields
    ]
    return Faithfulness(min(values, max(events)), _precision(source, text), missing)


@dataclass(frozen=True)
class _Original:
    """The values, numbers and days of an original text."""

    words: dict[str, Words]
    n_events: Counter[str]
    fields: list[Counter[str]]
    numbers: set[str]
    days: set[str]
    looks_numbered: bool


class _Text:
    """The words, dates and numbers of a text."""

    def __init__(self, text: str, numbered: bool) -> None:
        folded = _fold(_XML_HEAD.sub("", text, count=1))
        self.words = _words(folded)
        self.dates, self.numbers = _dates_and_numbers(folded)
        self._counts = Counter(self.words)
        self._list_numbers = Counter(_list_numbers(folded)) if numbered else Counter[str]()
        self._counts.subtract(self._list_numbers)
        self._folded = folded

    def count(self, value: str, words: Words, enough: int) -> int:
        """Count a value, in other notations only if it does not occur often enough as it is."""
        count = self._count_words(words)
        if count >= enough:
            return count
        number, day, time = _other_notations(value)
        if number:
            count = max(count, self._numbers.get(number, 0))
        elif day:
            n_days = self._days.get(day, 0)
            count = max(count, min(n_days, self._times.get(time, 0)) if time else n_days)
        return count

    @cached_property
    def _days(self) -> Counter[str]:
        days: Counter[str] = Counter()
        for date, count in self.dates.items():
            days.update(dict.fromkeys(_days(date), count))
        return days

    @cached_property
    def _times(self) -> Counter[str]:
        return Counter([_canonical_time(*found) for found in _TIME.findall(self._folded)])

    @cached_property
    def _numbers(self) -> Counter[str]:
        numbers: Counter[str] = Counter()
        for number, count in self.numbers.items():
            numbers[_canonical_number(number)] += count
        numbers.subtract(self._list_numbers)
        return numbers

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        places: dict[str, list[int]] = {}
        for place, word in enumerate(self.words):
            places.setdefault(word, []).append(place)
        return places

    def _count_words(self, words: Words) -> int:
        """Count starting at the rarest word, so that the text is not searched for each value."""
        if len(words) == 1:
            return max(0, self._counts.get(words[0], 0))
        places = [self._places.get(word, ()) for word in words]
        rarest = min(places, key=len)
        if not rarest:
            return 0
        offset, length = places.index(rarest), len(words)
        starts = [place - offset for place in rarest if place >= offset]
        return [self.words[start : start + length] for start in starts].count(words)


def _dates_and_numbers(folded: str) -> tuple[Counter[str], Counter[str]]:
    """Count the dates, and the numbers outside dates, as they are written."""
    dates: list[str] = []

    def take(found: re.Match[str]) -> str:
        dates.append(found[0])
        return ";"

    rest = _NAMED_DATE.sub(take, _NUMERIC_DATE.sub(take, folded))
    return Counter(dates), Counter(_NUMBER.findall(rest))


def _list_numbers(folded: str) -> list[str]:
    """Return the numbers of list items: each is 1 or follows the one before."""
    found = [int(number or other) for number, other in _NUMBERING.findall(folded)]
    return [str(number) for before, number in zip([0, *found], found, strict=False) if number in (1, before + 1)]


def _words(folded: str) -> Words:
    return tuple((_ASCII_WORD if folded.isascii() else _WORD).findall(folded))


def _fold(text: str) -> str:
    """Undo escapes and normalise letters."""
    if "\\" in text:
        text = _BACKSLASH.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", text)
    if "&" in text:
        text = _ENTITY.sub(" ", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    return _T_OF_TIMES.sub(" ", text) if ":" in text else text


# A text is compared with its rewritings one after the other.
@lru_cache(maxsize=64)
def _read_original(text: str) -> _Original:
    table = parse_events(text)
    columns = [Counter(filter(None, column)) for column in zip(*table.rows, strict=True)]
    n_events: Counter[str] = Counter()
    for column in columns:
        n_events.update(column)
    words = {value: words for value in n_events if (words := _words(_fold(value)))}
    fields = [Counter({value: count for value, count in column.items() if value in words}) for column in columns]
    dates, written = _dates_and_numbers(_fold(" ; ".join([*table.header, *n_events])))
    days = {day for date in dates for day in _days(date)}
    numbers = {reading for number in written for reading in (number, *_readings_of_number(number))}
    numbers.update(_canonical_number(part) for day in days for part in day.split("-"))
    numbers.update(map(str, range(len(table.rows) + 1)))
    numbers.update(number for column in columns for number in _totals(column))
    looks_numbered = _LIKE_NUMBERING.search("\n".join(n_events)) is not None
    return _Original(words, n_events, [field for field in fields if field], numbers, days, looks_numbered)


# Many users share values.
@lru_cache(maxsize=16_384)
def _other_notations(value: str) -> tuple[str, str, str]:
    """Return the number, or the day and time, that a value is; empty strings for what it is not."""
    canonical = canonical_value(value)
    if _PLAIN_NUMBER.fullmatch(canonical):
        return _canonical_number(canonical), "", ""
    if found := _CANONICAL_DATE.fullmatch(canonical):
        return "", found[1], found[2] or ""
    return "", "", ""


def _canonical_time(hour: str, minute: str, half: str) -> str:
    return f"{(int(hour) % 12 + 12 * (half == 'p')) if half else int(hour):02}:{minute}"


@lru_cache(maxsize=16_384)
def _days(date: str) -> list[str]:
    """Return the days that a date may mean: two if day and month are ambiguous; the date itself if none."""
    first, second, third = _PARTS_OF_DATE.findall(date)[:3]
    if len(first) == 4:
        parts = [(first, second, third)]
    elif first in _MONTHS:
        parts = [(third, first, second)]
    else:
        parts = [(third, second, first)] + ([(third, first, second)] if second.isdigit() else [])
    numbers = [(int(year), _MONTHS.get(month) or int(month), int(day)) for year, month, day in parts]
    days = [f"{year:04}-{month:02}-{day:02}" for year, month, day in numbers if 1 <= month <= 12 and 1 <= day <= 31]
    return list(dict.fromkeys(days)) or [date]


@lru_cache(maxsize=16_384)
def _canonical_number(number: str) -> str:
    whole, _, fraction = number.replace(",", "").replace(" ", "").lstrip("-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


@lru_cache(maxsize=16_384)
def _readings_of_number(number: str) -> list[str]:
    """Return the number, and its parts, which may be separate numbers."""
    return [_canonical_number(number), *map(_canonical_number, re.split("[ ,]", number))]


def _totals(column: Counter[str]) -> list[str]:
    """Return the total and the mean of a column of numbers."""
    if not column or not all(map(_PLAIN_NUMBER.fullmatch, column)):
        return []
    with localcontext(prec=_SUM_DIGITS):
        total = sum([Decimal(value) * count for value, count in column.items()], start=Decimal(0))
        mean = total / column.total()
        return [_canonical_number(f"{number:f}") for number in (total, *[round(mean, digits) for digits in range(3)])]


def _precision(source: _Original, text: _Text) -> float:
    n_days = sum([count for date, count in text.dates.items() if not source.days.isdisjoint(_days(date))])
    n_numbers = sum([count for number, count in text.numbers.items() if _stems_from(source.numbers, number)])
    n_all = text.dates.total() + text.numbers.total()
    return (n_days + n_numbers) / n_all if n_all else 1.0


def _stems_from(known: set[str], number: str) -> bool:
    if number in known:
        return True
    whole, *parts = _readings_of_number(number)
    return whole in known or known.issuperset(parts)
