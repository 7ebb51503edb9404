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
from dataclasses import field as dataclass_field
from decimal import Context, Decimal, localcontext
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
# A digit in a word, or at the end of a name such as amount_2, begins no number or date.
_DIGIT = r"[0-9](?<![^\W_].)(?<![^\W_]_.)"
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
_WRITTEN_TIME = r"([0-9]{1,2}):([0-9]{2})(?::[0-9]{2})?(?: ?([ap])\.?m\b)?"
_TIME = re.compile(_WRITTEN_TIME)
# A date is one word, whatever its notation; see `_mark`.
_MARKED_DATE_AND_TIME = re.compile(rf"(?<![^\W_])d([0-9]+) ,? *(?:at )?{_WRITTEN_TIME}")
# A comma before three digits and a space separates cells: "5,100 250.00" is 5 and 100250.
_NUMBER = re.compile(
    rf"{_DIGIT}(?:[0-9]{{0,2}}(?:(?:,[0-9]{{3}})++(?! [0-9]{{3}}(?![0-9]))|(?: [0-9]{{3}})++)(?![0-9])(?:\.[0-9]++)?"
    r"|[0-9]*+(?:\.[0-9]++)?)(?![^\W_]|\s?%)"
)
_COMMA_NUMBER = re.compile(rf"{_DIGIT}[0-9]{{0,2}}(?:,[0-9]{{3}})++(?![0-9])(?:\.[0-9]++)?(?![^\W_]|\s?%)")
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

    The Notes of `TextEnricher` define recall and precision. The numbers of a list (1., 2., ... or #1, #2, ...) are not
    values. Empty values and those without a letter or a digit do not count, and without values to compare, recall is 1.
    Percentages are not compared, and without numbers, precision is 1.

    Examples
    --------
    >>> from skllm4es.enrich._faithfulness import compare
    >>> raw = "date|amount\n2020-03-05, 1250.00\n2020-03-06, 7"
    >>> compare(raw, "On March 5th, 2020 you paid $1,250, then 9.")
    Faithfulness(recall=0.5, precision=0.6666666666666666, missing=['2020-03-06', '7'])
    """
    source = _read_original(original)
    text = _Text(rewritten, numbered=not source.looks_numbered, n_lone_times=source.n_lone_times)
    counts = _count(source, text)
    recall, missing = 1.0, []
    if any(counts[words] < value.n_events for words, value in source.values.items()):
        needed = _needed(source, counts)
        recall = min(_recall_of_values(source, counts, needed), _recall_of_events(source, counts))
        missing = [
            name
            for words, value in source.values.items()
            for name in value.names
            if counts[words] < (1 if len(value.fields) == 1 else needed[words])
        ]
    return Faithfulness(recall, _precision(source, text), missing)


def _count(source: _Original, text: _Text) -> dict[Words, int]:
    """Count each value, without its occurrences inside of other values, which are longer and counted before."""
    counts: dict[Words, int] = {}
    for words, value in source.values.items():
        inside = 0
        for other, times in value.inside:
            inside += times * min(counts[other], source.values[other].n_events)
        counts[words] = max(0, text.count(words, value, value.n_events + inside) - inside)
    return counts


def _needed(source: _Original, counts: dict[Words, int]) -> dict[Words, int]:
    """Return how often a text must contain each value in order to show it in each of its fields.

    A value of one field may occur once, in a heading. A value of several fields must occur once per event and field,
    except in fields of which other values are in headings.
    """
    in_headings = {
        field
        for words, value in source.values.items()
        if len(value.fields) == 1 and 0 < counts[words] < value.n_events
        for field in value.fields
    }
    return {
        words: 1 if len(value.fields) == 1 else sum([1 if f in in_headings else n for f, n in value.fields.items()])
        for words, value in source.values.items()
    }


def _recall_of_values(source: _Original, counts: dict[Words, int], needed: dict[Words, int]) -> float:
    """Return the mean over the fields of the share of their values that the text has."""
    return fmean(
        [sum([min(1.0, counts[words] / needed[words]) for words in field]) / len(field) for field in source.fields]
    )


def _recall_of_events(source: _Original, counts: dict[Words, int]) -> float:
    """Return the mean over the events of the share of one value of each, in the field that is kept best."""
    shares = {words: min(1.0, counts[words] / value.n_events) for words, value in source.values.items()}
    kept = [sum([shares[words] * n for words, n in field.items()]) / field.total() for field in source.fields]
    best = sorted(range(len(kept)), key=lambda number: -kept[number])
    events = [next((event[number] for number in best if event[number]), None) for event in source.events]
    return fmean([shares[words] for words in events if words])


@dataclass
class _Value:
    """A value in all its notations: its names in the original, and its number of events in each field."""

    names: list[str]
    fields: Counter[int]
    number: str = ""
    day: str = ""
    time: str = ""
    n_events: int = 0
    #: The words of the names, if they are not those of the value: several, because of separators of thousands.
    as_written: set[Words] = dataclass_field(default_factory=set)
    #: The longer values that contain it, with how often they do.
    inside: list[tuple[Words, int]] = dataclass_field(default_factory=list)


@dataclass(frozen=True)
class _Original:
    """The values of an original text by their words, the longest first; its fields, events, numbers and days."""

    values: dict[Words, _Value]
    fields: list[Counter[Words]]
    events: list[tuple[Words | None, ...]]
    numbers: set[str]
    days: set[str]
    looks_numbered: bool
    #: How many times are not part of a date.
    n_lone_times: int


class _Text:
    """The words, dates and numbers of a text."""

    def __init__(self, text: str, numbered: bool, n_lone_times: int) -> None:
        folded = _fold(_XML_HEAD.sub("", text, count=1))
        self._marked, self.dates = _mark(folded)
        self.words = _words(self._marked)
        self.numbers = Counter(_NUMBER.findall(self._marked))
        self._n_lone_times = n_lone_times
        self._counts = Counter(self.words)
        if numbered:
            self._counts.subtract(_list_numbers(folded))

    def count(self, words: Words, value: _Value, enough: int) -> int:
        """Count a value, in other notations only if it does not occur often enough as it is."""
        count = self._count_words(words)
        if count >= enough:
            return count
        if value.number:
            count += self._separated[value.number]
            return max(count, sum(map(self._count_words, value.as_written))) if value.as_written else count
        if value.day:
            return max(count, self._count_moments(value.day, value.time) if value.time else self._days[value.day])
        return count

    @cached_property
    def _days(self) -> Counter[str]:
        days: Counter[str] = Counter()
        for date, count in self.dates.items():
            days.update(dict.fromkeys(_days(date), count))
        return days

    def _count_moments(self, day: str, time: str) -> int:
        """Count a day with a time; if more times stand alone than in the original, days are headings above times."""
        together, times = self._times
        if times.total() - together.total() <= self._n_lone_times:
            return sum([count for (days, at), count in together.items() if at == time and day in days])
        return min(self._days[day], times[time])

    @cached_property
    def _times(self) -> tuple[Counter[tuple[tuple[str, ...], str]], Counter[str]]:
        """Count the times after a date, by the days that it may mean, and all times."""
        days = {_mark_of(date): tuple(_days(date)) for date in self.dates}
        found = _MARKED_DATE_AND_TIME.findall(self._marked)
        together = [(days[mark], _canonical_time(*time)) for mark, *time in found if mark in days]
        return Counter(together), Counter([_canonical_time(*time) for time in _TIME.findall(self._marked)])

    @cached_property
    def _separated(self) -> Counter[str]:
        """Count the numbers with separators of thousands, which are several words."""
        numbers: Counter[str] = Counter()
        for number in _COMMA_NUMBER.findall(self._marked):
            numbers[_canonical_number(number)] += 1
        for number, count in self.numbers.items():
            # The first part may be the end of a name: "amount 3 100 000".
            parts = number.split(" ")
            for start in range(len(parts) - 1):
                numbers[_canonical_number("".join(parts[start:]))] += count
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


def _mark(folded: str) -> tuple[str, Counter[str]]:
    """Replace each date by one word, which is the same for all notations of a day, and count the dates."""
    dates: list[str] = []

    def take(found: re.Match[str]) -> str:
        dates.append(found[0])
        return f" d{_mark_of(found[0])} "

    marked = _NAMED_DATE.sub(take, _NUMERIC_DATE.sub(take, folded))
    return marked, Counter(dates)


@lru_cache(maxsize=16_384)
def _mark_of(date: str) -> str:
    """Return the digits of the day, or of the date as it is written if that is ambiguous."""
    first, *others = _days(date)
    return re.sub("[^0-9]", "", date if others else first)


def _list_numbers(folded: str) -> list[str]:
    """Return the numbers of list items: each is 1 or follows the one before."""
    found = [int(number or other) for number, other in _NUMBERING.findall(folded)]
    return [str(number) for before, number in zip([0, *found], found, strict=False) if number in (1, before + 1)]


def _words(marked: str) -> Words:
    return tuple(map(_canonical_word, (_ASCII_WORD if marked.isascii() else _WORD).findall(marked)))


# Many users share values.
@lru_cache(maxsize=16_384)
def _words_of(value: str) -> Words:
    return _words(_mark(_fold(value))[0])


@lru_cache(maxsize=65_536)
def _canonical_word(word: str) -> str:
    return _canonical_number(word) if _PLAIN_NUMBER.fullmatch(word) else word


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
    distinct = list(dict.fromkeys(value for column in columns for value in column))
    words_of = {value: words for value in distinct if (words := _words_of(canonical_value(value)))}
    values = _values(columns, words_of)
    fields = [
        Counter({words: value.fields[number] for words, value in values.items() if number in value.fields})
        for number in range(len(columns))
    ]
    marked, dates = _mark(_fold(" ; ".join([*table.header, *distinct])))
    days = {day for date in dates for day in _days(date)}
    numbers = {reading for number in _NUMBER.findall(marked) for reading in (number, *_readings_of_number(number))}
    numbers.update(_canonical_number(part) for day in days for part in day.split("-"))
    numbers.update(map(str, range(len(table.rows) + 1)))
    numbers.update(number for column in columns for number in _totals(column))
    looks_numbered = _LIKE_NUMBERING.search("\n".join(distinct)) is not None
    events = [
        tuple([words_of.get(name) for name, field in zip(row, fields, strict=True) if field]) for row in table.rows
    ]
    n_lone_times = sum(
        n * len(_TIME.findall(name))
        for column in columns
        for name, n in column.items()
        if ":" in name and not _other_notations(name)[2]
    )
    return _Original(values, [field for field in fields if field], events, numbers, days, looks_numbered, n_lone_times)


def _values(columns: list[Counter[str]], words_of: dict[str, Words]) -> dict[Words, _Value]:
    """Collect the values of all fields, the longest first, each with the longer ones that contain it."""
    found: dict[Words, _Value] = {}
    for name, words in sorted(words_of.items(), key=lambda item: -len(item[1])):
        value = found.setdefault(words, _Value([], Counter()))
        value.names.append(name)
        if not (value.number or value.day):
            value.number, value.day, value.time = _other_notations(name)
        if value.number and ("," in name or " " in name):
            value.as_written.add(_words_of(name))
    for number, column in enumerate(columns):
        for name, n_events in column.items():
            if name in words_of:
                found[words_of[name]].fields[number] += n_events
    lengths = {len(words) for words in found}
    for words, value in found.items():
        value.n_events = value.fields.total()
        parts = Counter(
            words[start : start + length]
            for length in lengths
            if length < len(words)
            for start in range(len(words) - length + 1)
        )
        for part, times in parts.items():
            if part in found:
                found[part].inside.append((words, times))
    return found


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
    with localcontext(Context(prec=_SUM_DIGITS)):
        counts = [(Decimal(value), count) for value, count in column.items()]
        total = sum([number * count for number, count in counts], start=Decimal(0))
        mean = total / column.total()
        n_decimals = max(-int(number.as_tuple().exponent) for number, _ in counts)
        means = [round(mean, digits) for digits in sorted({0, 1, 2, n_decimals})]
        return [_canonical_number(f"{number:f}") for number in (total, *means)]


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
