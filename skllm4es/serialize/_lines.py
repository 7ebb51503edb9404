"""Lines of fields, quoted as in CSV: what the forms of the serialised text have in common.

A field that holds a mark of its line is written in double quotes, and a quote inside them twice. So a line break or a
separator inside a field is told from one between fields by counting quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EventTable:
    r"""The events of one user, read back from a text.

    Parameters
    ----------
    header : list of str
        The names of the features, in the order of the text.
    rows : list of list of str
        One list an event, earliest first, each as long as `header`. Values are the strings of the text; what was
        missing is the string that the serializer wrote for it, by default the empty one.

    Examples
    --------
    >>> from skllm4es.serialize import parse_events
    >>> parse_events("title|rating\nHeat, 5")
    EventTable(header=['title', 'rating'], rows=[['Heat', '5']])
    """

    header: list[str]
    rows: list[list[str]]


def join_line(fields: Sequence[str], separator: str, special: re.Pattern[str]) -> str:
    """Write a line; fields in which `special` is found are quoted, and the empty one that is alone."""
    if len(fields) == 1 and not fields[0]:
        return '""'
    return separator.join(quote(field) if special.search(field) else field for field in fields)


def quote(field: str) -> str:
    """Write a field in quotes."""
    return '"' + field.replace('"', '""') + '"'


def end_of_line(text: str, start: int = 0) -> int:
    """Position of the line break that ends the line beginning at `start`: the first one outside quotes."""
    end = find_outside_quotes(text, "\n", start)
    return len(text) if end == -1 else end


def find_outside_quotes(text: str, wanted: str, start: int = 0) -> int:
    """Position of the first `wanted` from `start` on that is outside quotes, or -1."""
    counted, quotes = start, 0
    found = text.find(wanted, start)
    while found != -1:
        quotes += text.count('"', counted, found)
        if quotes % 2 == 0:
            return found
        counted = found
        found = text.find(wanted, found + 1)
    return -1


def split_lines(body: str) -> list[str]:
    """Split a text at the line breaks outside quotes."""
    lines = body.split("\n")
    if '"' not in body:
        return lines
    whole: list[str] = []
    open_line: list[str] = []
    for line in lines:
        open_line.append(line)
        # Quotes are doubled inside a quoted field, so a line is complete when their number is even.
        if line.count('"') % 2 == (len(open_line) > 1):
            whole.append("\n".join(open_line))
            open_line = []
    if open_line:
        raise ValueError(f"A quoted field is not closed: {shorten(open_line[0])!r}. Was the text cut?")
    return whole


def split_line(line: str, separator: str) -> list[str]:
    """Split a line at the separators outside quotes, and take the quotes off."""
    if '"' not in line:
        return line.split(separator)
    fields = []
    position = 0
    while True:
        field, position = read_field(line, position, separator)
        fields.append(field)
        if position == len(line):
            return fields
        position = skip(line, position, separator)


def read_field(line: str, start: int, separator: str) -> tuple[str, int]:
    """Read the field that begins at `start`; give it and the position just behind it."""
    if not line.startswith('"', start):
        end = line.find(separator, start)
        end = len(line) if end == -1 else end
        return line[start:end], end
    end = line.find('"', start + 1)
    while end != -1 and line.startswith('"', end + 1):
        end = line.find('"', end + 2)
    if end == -1:
        raise ValueError(f"A quoted field is not closed: {shorten(line[start:])!r}. Was the text cut?")
    return line[start + 1 : end].replace('""', '"'), end + 1


def skip(line: str, position: int, separator: str) -> int:
    """Position behind the separator, which must be at `position`."""
    if not line.startswith(separator, position):
        raise ValueError(f"Text after the closing quote of a field: {shorten(line[position:])!r}.")
    return position + len(separator)


def shorten(text: str, length: int = 60) -> str:
    """Cut a text for an error message."""
    return text if len(text) <= length else text[: length - 3] + "..."
