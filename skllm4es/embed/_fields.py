"""What each feature of serialised events is: words, numbers or times, found in `fit` and kept.

A text does not say of which type its values were, so the values themselves decide. Whole numbers with a leading zero,
such as 0389, are codes, and therefore words; so is 2345-7, since a time has two digits for its month. Words are read
by the language model, as few and as short texts as possible, because what it costs is the number of distinct texts;
numbers and times are measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
import pandas as pd

from skllm4es._messages import warn
from skllm4es.serialize._columns import Codes, TextColumns

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DIGIT = re.compile("[0-9]")
#: What no number is written like: 0389 and 389 are two codes.
_LEADING_ZERO = re.compile("[+-]?0[0-9]+")
#: What a time begins with; pandas also reads 2345-7 as one.
_DATE = re.compile(r"[0-9]{4}([-/.]?)[0-9]{2}\1[0-9]{2}([T ].*)?|[0-9]{4}[-/][0-9]{2}")
#: A time of day, which is a number of seconds.
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9](?:\.[0-9]+)?))?")
#: What is written for numbers that are none. They do not make words of a feature.
_NO_NUMBER = re.compile(r"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
#: Larger numbers count as this one, so that differences between numbers are finite.
_HUGE = 1e300
#: Whole numbers with at least this many distinct values may be codes, which are counted as well as measured.
_MAY_BE_CODES = 21
#: Features and combinations with more distinct values than this are read only if other users share most of them.
_FEW = 1000
#: A feature that is the same in all events of this share of users belongs to the user and not to the event.
_CONSTANT = 0.95


@dataclass(frozen=True)
class Fields:
    """What the features of events are.

    Parameters
    ----------
    units : list of list of str
        Features whose values are read together, as one text an event.
    codes : list of str
        Numbers that may be codes. They identify, but nobody can say what they mean, so they are not read.
    numbers : list of str
        Features that are numbers, times of day among them.
    times : list of str
        Features that are times.
    clocks : list of str
        Which of the numbers are times of day, in seconds.
    """

    units: list[list[str]]
    codes: list[str]
    numbers: list[str]
    times: list[str]
    clocks: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All features that are read or measured, without repeats."""
        return list(dict.fromkeys([*chain.from_iterable(self.units), *self.codes, *self.numbers, *self.times]))

    @classmethod
    def find(cls, columns: TextColumns) -> Fields:
        """Decide by the values of many users; warn about features that are not read at all."""
        kinds = {name: _kind(columns, name) for name in columns.names}
        words = [name for name, kind in kinds.items() if kind == "words"]
        own = [name for name in words if len(words) > 1 and _is_constant(columns, columns.codes(name))]
        shared = [name for name in words if _is_shared(columns, columns.codes(name))]
        if unread := [name for name in words if name not in shared]:
            warn(
                f"features='events' does not read {unread}, whose values seldom occur again: the language model would "
                "have to read each of them. Leave them out with EventSerializer(columns=[...]), or shorten them to "
                "what users share; of lists, such as baskets, make one event of each item."
            )
        together = [name for name in shared if name not in own]
        if len(together) > 1 and not _is_shared(columns, _combine(columns, together)):
            units = [[name] for name in together]
        else:
            units = [together] if together else []
        units += [[name] for name in own if name in shared]
        clocks = [name for name, kind in kinds.items() if kind == "times of day"]
        numbers = [name for name, kind in kinds.items() if kind == "numbers"]
        codes = [name for name in numbers if _may_be_codes(columns, name) and _is_shared(columns, columns.codes(name))]
        times = [name for name, kind in kinds.items() if kind == "times"]
        return cls(units, codes, numbers + clocks, times, clocks)


def texts_of(columns: TextColumns, unit: Sequence[str]) -> tuple[list[str], Integers]:
    """Return the distinct texts of a unit, and the place of each event's text among them.

    A text names its features, as in ``title: Heat (1995), genres: Crime``; what is missing is left out.
    """
    inverse = _combine(columns, unit)
    first = np.empty(int(inverse.max(initial=-1)) + 1, dtype=np.int64)
    first[inverse] = np.arange(len(inverse))  # Any event with the text will do.
    values = [columns.values_at(name, columns.codes(name)[first]) for name in unit]
    rows = zip(*values, strict=True)
    texts = [", ".join(f"{name}: {value}" for name, value in zip(unit, row, strict=True) if value) for row in rows]
    return texts, inverse


def numbers_of(columns: TextColumns, fields: Fields) -> list[Floats]:
    """Return each feature that is a number, of all events; NaN where it is missing, or no number."""
    return [columns.numbers(name, _as_clock if name in fields.clocks else _as_numbers) for name in fields.numbers]


def times_of(columns: TextColumns, name: str) -> Floats:
    """Return a feature of all events as seconds since 1970; NaN where it is missing, or no time."""
    return columns.numbers(name, _as_seconds)


def _kind(columns: TextColumns, name: str) -> str:
    """Return what a feature is by its distinct values; one other value may stand for what is missing."""
    if not any(map(_known, columns.values(name))):
        return "nothing"
    for kind, read in (("numbers", _as_numbers), ("times", _as_seconds)):
        if _are(read, map(_known, columns.values(name))):
            is_code = kind == "numbers" and any(map(_LEADING_ZERO.fullmatch, _distinct(columns, name)))
            return "words" if is_code else kind
    # Here the other value stands for what is missing only if it has no digits: 8:00 beside 10:00 is a time as well.
    with_digits = filter(_DIGIT.search, _distinct(columns, name))
    if _are(_as_clock, map(_known, columns.values(name))) and all(map(_CLOCK.fullmatch, with_digits)):
        return "times of day"
    return "words"


def _distinct(columns: TextColumns, name: str) -> Iterable[str]:
    return chain.from_iterable(columns.values(name))


def _known(values: Sequence[str]) -> list[str]:
    return [value for value in values if value and not _NO_NUMBER.fullmatch(value)]


def _are(read: Callable[[list[str]], Floats], parts: Iterable[list[str]]) -> bool:
    """Return whether all values can be read, except for one beside several."""
    readable, others = set[str](), set[str]()
    for part in parts:
        # The first values alone already rule out most words.
        for some in filter(None, (part[:20], part[20:])):
            is_read = np.isfinite(read(some))
            others.update(value for value, ok in zip(some, is_read, strict=True) if not ok)
            if len(others) > 1:
                return False
            if len(readable) < 2:
                readable.update(value for value, ok in zip(some, is_read, strict=True) if ok)
    return len(readable) > len(others)


def _as_numbers(values: Sequence[str]) -> Floats:
    numbers = [float(value) if _NUMBER.fullmatch(value) else np.nan for value in values]
    return np.clip(np.array(numbers, dtype=np.float64), -_HUGE, _HUGE)


def _as_clock(values: Sequence[str]) -> Floats:
    clocks = map(_CLOCK.fullmatch, values)
    seconds = [3600 * int(c[1]) + 60 * int(c[2]) + float(c[3] or 0) if c else np.nan for c in clocks]
    return np.array(seconds, dtype=np.float64)


def _as_seconds(values: Sequence[str]) -> Floats:
    dates = [value if _DATE.fullmatch(value) else None for value in values]
    times = pd.to_datetime(pd.Series(dates, dtype=object), format="ISO8601", errors="coerce", utc=True)
    # Not in nanoseconds, in which no year before 1678 or after 2261 can be written.
    microseconds = times.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    return np.where(np.isnat(microseconds), np.nan, microseconds.astype(np.int64) / 1e6)


def _may_be_codes(columns: TextColumns, name: str) -> bool:
    distinct = set[str]()
    for part in columns.values(name):
        numbers = _as_numbers(part)
        known = ~np.isnan(numbers)
        if not (numbers[known] == np.round(numbers[known])).all():
            return False
        if len(distinct) < _MAY_BE_CODES:
            distinct.update(value for value, is_known in zip(part, known, strict=True) if is_known)
    return len(distinct) >= _MAY_BE_CODES


def _combine(columns: TextColumns, unit: Sequence[str]) -> Integers:
    """Return one code for the values of several features together, from 0, in the order of the features' codes."""
    combined = np.zeros(columns.n_events, dtype=np.int64)
    for codes in map(columns.codes, unit):
        n_values = int(codes.max(initial=0)) + 1
        n_possible = (int(combined.max(initial=0)) + 1) * n_values
        combined = combined * n_values + codes
        if n_possible > 4 * len(combined):
            _, combined = np.unique(combined, return_inverse=True)
        else:  # Without sorting the events.
            occurs = np.zeros(n_possible, dtype=bool)
            occurs[combined] = True
            combined = (np.cumsum(occurs) - 1)[combined]
    return combined


def _is_shared(columns: TextColumns, codes: Codes | Integers) -> bool:
    """Return whether values are few, or most events have one that another text has too."""
    n_values = int(codes.max(initial=0)) + 1
    if n_values <= _FEW:
        return True
    pairs = np.unique(columns.owners * n_values + codes)
    n_texts = np.bincount(pairs % n_values, minlength=n_values)
    return float((n_texts[codes] > 1).mean()) > 0.5


def _is_constant(columns: TextColumns, codes: Codes | Integers) -> bool:
    """Return whether nearly every text with several events has a single value in them."""
    n_values = int(codes.max(initial=0)) + 1
    n_distinct = np.bincount(np.unique(columns.owners * n_values + codes) // n_values, minlength=len(columns.lengths))
    several = columns.lengths > 1
    return bool(several.any()) and float((n_distinct[several] <= 1).mean()) >= _CONSTANT
