"""The serialised form: the one text form in which events pass from the serializer to what follows.

`EventSerializer` writes it column by column; the enricher's templates and its faithfulness check read it back
through `parse_events`, so they work on any text in this form, whoever wrote it.

A text is a header line of feature names joined by ``|``, then one line an event, fields joined by ``, ``
(the paper's form, section 3.1). A field that holds a separator's mark, a quote or a line break is quoted as CSV
quotes it. A line is never empty: the only field of a one-column event is written ``""`` when it is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEADER_SEPARATOR = "|"
FIELD_SEPARATOR = ", "

#: What makes a field need quotes, as a regular expression that both `re` and Arrow's RE2 understand.
SPECIAL_IN_FIELD = '[,"\n\r]'
SPECIAL_IN_HEADER = '[|"\n\r]'

_NEEDS_QUOTES = {
    FIELD_SEPARATOR: re.compile(SPECIAL_IN_FIELD),
    HEADER_SEPARATOR: re.compile(SPECIAL_IN_HEADER),
}


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
    >>> from skllm4es.formats import parse_events
    >>> parse_events("title|rating\nHeat, 5")
    EventTable(header=['title', 'rating'], rows=[['Heat', '5']])
    """

    header: list[str]
    rows: list[list[str]]


def parse_events(text: str) -> EventTable:
    r"""Read a serialised text back into its header and its events.

    The exact inverse of `format_events` and of `EventSerializer.transform`.

    Parameters
    ----------
    text : str
        One user's serialised events: a header line, then one event a line.

    Returns
    -------
    EventTable
        The feature names and the events.

    Raises
    ------
    ValueError
        If the text is not in the serialised form: an event has more or fewer fields than the header, or a
        quoted field is not closed.

    Examples
    --------
    >>> from skllm4es.formats import parse_events
    >>> table = parse_events('title|rating\n"Usual Suspects, The", 5\nHeat, 4')
    >>> table.header
    ['title', 'rating']
    >>> table.rows
    [['Usual Suspects, The', '5'], ['Heat', '4']]
    """
    if not isinstance(text, str):
        raise TypeError(f"parse_events reads one text, a str; got {type(text).__name__}.")
    end = _end_of_line(text)
    header = _split_line(text[:end], HEADER_SEPARATOR)
    body = text[end + 1 :]
    lines = _split_lines(body) if body else []
    if '"' in body:
        rows = [_split_line(line, FIELD_SEPARATOR) for line in lines]
    else:
        rows = [line.split(FIELD_SEPARATOR) for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(
                f"Event {number} of the text has {len(row)} fields {row!r}, but the header names {len(header)}: "
                f"{header!r}. A text in the serialised form has a header line 'a|b|c', then one event a line, "
                "fields joined by ', '; fields that hold a comma, a quote or a line break are quoted as in CSV."
            )
    return EventTable(header, rows)


def format_events(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Write events in the serialised form, one user at a time.

    `EventSerializer` does the same for many users at once, column by column.

    Parameters
    ----------
    header : sequence of str
        The names of the features.
    rows : iterable of sequence of str
        The events, earliest first, one string a feature.

    Returns
    -------
    str
        The text.

    Examples
    --------
    >>> from skllm4es.formats import format_events
    >>> format_events(["title", "rating"], [["Usual Suspects, The", "5"]])
    'title|rating\n"Usual Suspects, The", 5'
    """
    lines = [_join_line(header, HEADER_SEPARATOR)]
    lines += [_join_line(row, FIELD_SEPARATOR) for row in rows]
    return "\n".join(lines)


def format_header(names: Sequence[str]) -> str:
    """Write the header line alone."""
    return _join_line(names, HEADER_SEPARATOR)


def _join_line(fields: Sequence[str], separator: str) -> str:
    if len(fields) == 1 and not fields[0]:
        return '""'
    special = _NEEDS_QUOTES[separator]
    return separator.join(_quote(field) if special.search(field) else field for field in fields)


def _quote(field: str) -> str:
    return '"' + field.replace('"', '""') + '"'


def _end_of_line(text: str, start: int = 0) -> int:
    """Position of the line break that ends the line beginning at `start`: the first one outside quotes."""
    end = text.find("\n", start)
    while end != -1 and text.count('"', start, end) % 2:
        end = text.find("\n", end + 1)
    return len(text) if end == -1 else end


def _split_lines(body: str) -> list[str]:
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
        raise ValueError(f"A quoted field is not closed: {_shorten(open_line[0])!r}. Was the text cut?")
    return whole


def _split_line(line: str, separator: str) -> list[str]:
    if '"' not in line:
        return line.split(separator)
    fields = []
    position = 0
    while True:
        field, position = _read_field(line, position, separator)
        fields.append(field)
        if position == len(line):
            return fields
        if not line.startswith(separator, position):
            raise ValueError(f"Text after the closing quote of a field: {_shorten(line[position:])!r}.")
        position += len(separator)


def _read_field(line: str, start: int, separator: str) -> tuple[str, int]:
    """Read the field that begins at `start`; give it and the position just behind it."""
    if not line.startswith('"', start):
        end = line.find(separator, start)
        end = len(line) if end == -1 else end
        return line[start:end], end
    end = line.find('"', start + 1)
    while end != -1 and line.startswith('"', end + 1):
        end = line.find('"', end + 2)
    if end == -1:
        raise ValueError(f"A quoted field is not closed: {_shorten(line[start:])!r}. Was the text cut?")
    return line[start + 1 : end].replace('""', '"'), end + 1


def _shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
