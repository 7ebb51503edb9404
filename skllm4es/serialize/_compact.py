r"""The compact form: the same events, often in half the tokens.

It is the first future direction that the LLM4ES paper names. A text looks like this::

    |currency type day+ amount store~
    EUR POS "2024-03-01" 12.5 Grocery Stores, Supermarkets
      3 8.99 Grocery
     ATM  60 Cash Machines

- The header begins with ``|``. Each name is followed by the separator that follows the column's fields in every line:
  a space if the fields are single words, ``|`` if they are texts.
- **An empty field repeats the line above.** The last field of a line is always written, so no line is empty.
- In a column marked ``+``, a number is the distance from the line above: seconds between times, days between dates, the
  difference of whole numbers.
- In a column marked ``~``, a value is written in full when it first appears, and later by its first words: as few as
  no earlier value of the text has taken.
- **What is quoted stands for itself**: a value that would be read as another, the empty one, one with a separator.

So a text can be read back without anything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from itertools import pairwise, repeat
from operator import itemgetter
from typing import Literal

from skllm4es.serialize._lines import csv_quoted, end_of_line, read_field, shorten, skip, split_lines
from skllm4es.serialize._table import EventTable
from skllm4es.serialize._values import format_seconds

COMPACT_MARK = "|"

_WORD, _TEXT = " ", "|"
_SPECIAL = {_WORD: re.compile('[ "\n\r]'), _TEXT: re.compile('[|"\n\r]')}
_SPECIAL_IN_NAME = re.compile('[ |"\n\r]|[+~]$|^$')
_NAME = re.compile(r'("(?:[^"]|"")*"|[^ |"\n\r]+?)([+~]?)([ |]|$)')

_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,17}")
_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2} ([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}([.][0-9]{0,8}[1-9])?")
_DISTANCE = re.compile("-?[0-9]{1,19}([.][0-9]{1,9})?")  # Of two numbers of 18 digits, 19.
_DAY = 24 * 3600
_SECOND = 1_000_000_000  # nanoseconds

Point = tuple[str, int]


@dataclass(frozen=True)
class CompactColumn:
    """How the compact form writes one column.

    Its fields are single words, which a space ends, or texts; its values are written as they are (code ``""``), as
    distances from the previous event (``"+"``), or by their first words (``"~"``).
    """

    name: str
    words: bool
    code: Literal["", "+", "~"] = ""

    @property
    def separator(self) -> str:
        """What follows each of its fields within a line."""
        return _WORD if self.words else _TEXT


def format_compact(columns: Sequence[CompactColumn], values: Sequence[Sequence[str]]) -> str:
    """Write one user's events in the compact form; `values` holds one sequence per column, earliest event first."""
    last = len(columns) - 1
    parts: list[Iterable[str]] = []
    for i, (column, texts) in enumerate(zip(columns, values, strict=True)):
        fields = _encode(column, texts)
        if i < last:
            fields[1:] = [
                "" if text == above else field for field, (above, text) in zip(fields[1:], pairwise(texts), strict=True)
            ]
            parts += [fields, repeat(column.separator)]
        else:
            parts.append(fields)
    return "\n".join([_format_header(columns), *map("".join, zip(*parts, strict=False))])


def parse_compact(text: str) -> EventTable:
    """Parse a text in the compact form: the exact inverse of `format_compact`."""
    end = end_of_line(text)
    columns = _parse_header(text[len(COMPACT_MARK) : end])
    short_forms = [ShortForms() for _ in columns]
    rows: list[list[str]] = []
    for line in split_lines(text[end + 1 :]) if end < len(text) else []:
        try:
            rows.append(_parse_line(line, columns, rows[-1] if rows else None, short_forms))
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"Event {len(rows) + 1} of the text, {shorten(line)!r}, is not in the compact form: {error}"
            ) from error
    return EventTable([column.name for column in columns], rows)


def plan_columns(
    texts: Mapping[str, Sequence[str]], offsets: Sequence[int], points: Collection[str]
) -> list[CompactColumn]:
    """Choose how the compact form writes columns, given their values as strings, and in which order.

    Columns of single words come first, beginning with those that most often repeat the line above; the others keep
    their order. A column of texts is shortened if most of its values repeat an earlier one of the same user. `points`
    names the columns whose values are points in time, or whole numbers that grow with time.
    """
    words: list[tuple[int, CompactColumn]] = []
    others = []
    users = [user for user, (a, b) in enumerate(pairwise(offsets)) for _ in range(a, b)]
    for name, values in texts.items():
        mentions = list(zip(users, values, strict=True))
        if name in points:
            column = CompactColumn(name, words=True, code="+")
        elif any(map(_SPECIAL[_WORD].search, values)):
            column = CompactColumn(name, words=False, code="~" if 2 * len(set(mentions)) < len(mentions) else "")
        else:
            column = CompactColumn(name, words=True)
        if column.words:
            words.append((sum(above != value for above, value in pairwise(mentions)), column))
        else:
            others.append(column)
    return [column for _, column in sorted(words, key=itemgetter(0))] + others


@dataclass
class ShortForms:
    """The short forms that the values of one column have taken in one text so far."""

    of: dict[str, str] = field(default_factory=dict)
    value: dict[str, str] = field(default_factory=dict)

    def learn(self, value: str) -> None:
        """Give a new value its short form: the fewest first words that no earlier value has taken, or all of it."""
        if value in self.of:
            return
        words = value.split(" ")
        for n_words in range(1, len(words) + 1):
            short = " ".join(words[:n_words]).rstrip(",;:")
            if short and short not in self.value and not _SPECIAL[_TEXT].search(short):
                self.value[short], self.of[value] = value, short
                return
        self.of[value] = value


def _encode(column: CompactColumn, values: Sequence[str]) -> list[str]:
    """Write the fields of a column, each in full, even if it repeats the line above."""
    if column.code == "+":
        points = [_read_point(value) for value in values]
        distances = map(_distance, [None, *points], points)
        pairs = zip(values, distances, strict=False)
        return [csv_quoted(value) if distance is None else distance for value, distance in pairs]
    literal = _SPECIAL[column.separator].search
    if column.code == "~":
        short_forms = ShortForms()
        return [_shorten(value, short_forms, literal) for value in values]
    if "" in values or literal("".join(values)):
        return [csv_quoted(value) if not value or literal(value) else value for value in values]
    return list(values)


def _shorten(value: str, short_forms: ShortForms, literal: Callable[[str], object]) -> str:
    written = short_forms.of.get(value, value)
    meaning = short_forms.value.get(written, written)
    short_forms.learn(value)
    # A value that would be read as the short form of another is quoted, too.
    return csv_quoted(value) if not value or meaning != value or literal(written) else written


def _decode(written: str, above: str | None, column: CompactColumn, short_forms: ShortForms) -> str:
    if not written:
        if above is None:
            raise ValueError(f"its field {column.name!r} is empty, but there is no line above to repeat.")
        return above
    if column.code == "+":
        return _move(above, written)
    if column.code == "~":
        value = short_forms.value.get(written, written)
        short_forms.learn(value)
        return value
    return written


def _parse_line(
    line: str, columns: Sequence[CompactColumn], above: list[str] | None, short_forms: Sequence[ShortForms]
) -> list[str]:
    row = []
    position = 0
    last = len(columns) - 1
    for i, column in enumerate(columns):
        start = position
        value, position = read_field(line, start, column.separator if i < last else "\n")
        if not line.startswith('"', start):
            value = _decode(value, above[i] if above else None, column, short_forms[i])
        elif column.code == "~":
            short_forms[i].learn(value)
        if i < last and position == len(line):
            raise ValueError(f"it ends before the field {columns[i + 1].name!r}.")
        if i < last:
            position = skip(line, position, column.separator)
        elif position < len(line):
            raise ValueError(f"text after the closing quote of a field: {shorten(line[position:])!r}.")
        row.append(value)
    return row


def _format_header(columns: Sequence[CompactColumn]) -> str:
    names = [column.name for column in columns]
    names = [csv_quoted(name) if _SPECIAL_IN_NAME.search(name) else name for name in names]
    parts = [name + column.code + column.separator for name, column in zip(names, columns, strict=True)]
    return COMPACT_MARK + "".join(parts)[:-1]


def _parse_header(header: str) -> list[CompactColumn]:
    columns: list[CompactColumn] = []
    position = 0
    while position < len(header) or not columns:
        found = _NAME.match(header, position)
        if not found:
            raise ValueError(
                f"The header of a text in the compact form is broken at {shorten(header[position:])!r}. Was it cut?"
            )
        name, code, separator = found.groups()
        name = name[1:-1].replace('""', '"') if name.startswith('"') else name
        columns.append(CompactColumn(name, separator == _WORD, code))  # type: ignore[arg-type]
        position = found.end()
    return columns


def is_whole(text: str) -> bool:
    """Whether a value is a whole number, written so that its distance to others can take its place."""
    return _WHOLE_NUMBER.fullmatch(text) is not None


def _distance(above: Point | None, point: Point | None) -> str | None:
    if above is None or point is None or above[0] != point[0]:
        return None
    distance = point[1] - above[1]
    return format_seconds(distance, _SECOND) if point[0] == "time" else str(distance)


def _move(above: str | None, distance: str) -> str:
    point = None if above is None else _read_point(above)
    if point is None:
        raise ValueError(f"the distance {distance!r} follows {above!r}, which is not a whole number, date or time.")
    if not _DISTANCE.fullmatch(distance) or ("." in distance and point[0] != "time"):
        raise ValueError(f"{distance!r} is not a distance.")
    if point[0] == "number":
        return str(point[1] + int(distance))
    if point[0] == "date":
        return date.fromordinal(point[1] + int(distance)).isoformat()
    seconds, nanoseconds = divmod(point[1] + int(Decimal(distance) * _SECOND), _SECOND)
    days, seconds = divmod(seconds, _DAY)
    whole = datetime.combine(date.fromordinal(days), time(seconds // 3600, seconds // 60 % 60, seconds % 60))
    return str(whole) + (f".{nanoseconds:09d}".rstrip("0") if nanoseconds else "")


def _read_point(text: str) -> Point | None:
    """Read a value that is written exactly as `_move` would write it; return None for any other."""
    try:
        if _TIME.fullmatch(text):
            point = datetime.fromisoformat(text[:19])
            seconds = point.toordinal() * _DAY + point.hour * 3600 + point.minute * 60 + point.second
            return "time", seconds * _SECOND + int(text[20:].ljust(9, "0"))
        if _DATE.fullmatch(text):
            return "date", date.fromisoformat(text).toordinal()
    except ValueError:
        return None  # It looks like a date but is none, such as 31 February.
    return ("number", int(text)) if is_whole(text) else None
