"""Lines of fields, quoted as in CSV: what the plain and the compact form have in common.

A field that holds a separator or a line break is put in double quotes, and quotes inside it are doubled. So a separator
or line break stands between fields exactly if the number of quotes before it is even.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


def join_line(fields: Sequence[str], separator: str, special: re.Pattern[str]) -> str:
    """Write a line; fields in which `special` is found are quoted, and so is an empty field alone in its line."""
    if len(fields) == 1 and not fields[0]:
        return '""'
    return separator.join(csv_quoted(field) if special.search(field) else field for field in fields)


def csv_quoted(field: str) -> str:
    """Put a field in double quotes, and double those inside it."""
    return '"' + field.replace('"', '""') + '"'


def end_of_line(text: str, start: int = 0) -> int:
    """Return the position of the line break that ends the line beginning at `start`: the first outside quotes."""
    end = find_outside_quotes(text, "\n", start)
    return len(text) if end == -1 else end


def find_outside_quotes(text: str, wanted: str, start: int = 0) -> int:
    """Return the position of the first `wanted` at or after `start` that is outside quotes, or -1."""
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
    """Split a line at the separators outside quotes, and remove the quotes."""
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
    """Return the field that begins at `start`, and the position after it."""
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
    """Return the position after the separator, which must be at `position`."""
    if not line.startswith(separator, position):
        raise ValueError(f"Text after the closing quote of a field: {shorten(line[position:])!r}.")
    return position + len(separator)


def shorten(text: str, length: int = 60) -> str:
    """Cut a text for an error message."""
    return text if len(text) <= length else text[: length - 3] + "..."
