"""The serialised form: the text in which events pass from the serializer to the steps that follow.

`EventSerializer` writes it column by column; the enricher's templates and its faithfulness check read it with
`parse_events`, so they work on any text in this form, whoever wrote it.

A text is a header line of feature names joined by ``|``, then one line per event, with fields joined by ``, ``
(the paper's form, section 3.1). A field that holds a separator, a quote or a line break is quoted as in CSV. A line is
never empty: an empty field that is alone in its line is written ``""``. So a blank line can end an instruction, which
comes before the header.

Other separators are inferred from the text: names and fields that hold any separator are quoted, except in the paper's
form, where only a comma in a field is. The compact form (`_compact`) begins with ``|``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from skllm4es.serialize._compact import COMPACT_MARK, parse_compact
from skllm4es.serialize._lines import (
    end_of_line,
    find_outside_quotes,
    join_line,
    shorten,
    split_line,
    split_lines,
)
from skllm4es.serialize._table import EventTable

HEADER_SEPARATOR = "|"
FIELD_SEPARATOR = ", "
#: What may stand between names, and between fields.
SEPARATORS = (", ", ",", "; ", ";", " | ", "|", "\t")

# Regular expressions that both `re` and Arrow's RE2 understand.
_ANY_MARK = '[,;|\t"\n\r]|^ | $'
SPECIAL_IN_NAME = f"{_ANY_MARK}|^$"

_SEPARATOR = re.compile(r" \| |[,;] ?|[|\t]")
_BAR = re.compile(r" \| |\|")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def special_in_field(separator: str = FIELD_SEPARATOR) -> str:
    """Return the regular expression for fields that need quotes, apart from an empty one alone in its line."""
    return '[,"\n\r]' if separator == FIELD_SEPARATOR else _ANY_MARK


def parse_events(text: str) -> EventTable:
    r"""Parse a serialised text into its header and its events.

    The exact inverse of `format_events` and of `EventSerializer.transform`, whatever the separators, with or without an
    instruction, in the plain or the compact form.

    Parameters
    ----------
    text : str
        One user's serialised events: a header line, then one line per event.

    Returns
    -------
    EventTable
        The feature names and the events, without an instruction.

    Raises
    ------
    ValueError
        If the text is not in the serialised form: an event does not have as many fields as the header, or a quoted
        field is not closed.

    Examples
    --------
    >>> from skllm4es.serialize import parse_events
    >>> table = parse_events('title|rating\n"Usual Suspects, The", 5\nHeat, 4')
    >>> table.header
    ['title', 'rating']
    >>> table.rows
    [['Usual Suspects, The', '5'], ['Heat', '4']]
    """
    if not isinstance(text, str):
        raise TypeError(f"parse_events reads one text, a str; got {type(text).__name__}.")
    head = read_head(text)
    if head is None:
        return parse_compact(text[end_of_instruction(text) :])
    header, separator, body = head
    lines = split_lines(body) if body else []
    rows = [split_line(line, separator) for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(
                f"Event {number} of the text has {len(row)} fields {row!r}, but the header names {len(header)}: "
                f"{header!r}. A text in the serialised form has a header line 'a|b|c', then one line per event, "
                "with fields joined by ', ' and quoted as in CSV if they hold a comma, a quote or a line break."
            )
    return EventTable(header, rows)


def read_head(text: str) -> tuple[list[str], str, str] | None:
    """Return the names of a text, what stands between its fields, and all its lines; None in the compact form."""
    text = text[end_of_instruction(text) :]
    if text.startswith(COMPACT_MARK):
        return None
    end = end_of_line(text)
    header = split_line(text[:end], _separator_of_header(text[:end]))
    body = text[end + 1 :]
    separator = _separator_of_fields(body[: end_of_line(body)]) if body and len(header) > 1 else FIELD_SEPARATOR
    return header, separator, body


def format_events(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Write events in the serialised form, one user at a time.

    `EventSerializer` does the same for many users at once, column by column.

    Parameters
    ----------
    header : sequence of str
        The names of the features.
    rows : iterable of sequence of str
        The events, earliest first, with one string per feature.

    Returns
    -------
    str
        The text.

    Examples
    --------
    >>> from skllm4es.serialize import format_events
    >>> format_events(["title", "rating"], [["Usual Suspects, The", "5"]])
    'title|rating\n"Usual Suspects, The", 5'
    """
    special = re.compile(special_in_field())
    return "\n".join([format_header(header), *(join_line(row, FIELD_SEPARATOR, special) for row in rows)])


def format_header(names: Sequence[str], separator: str = HEADER_SEPARATOR) -> str:
    """Write the header line."""
    return join_line(names, separator, re.compile(SPECIAL_IN_NAME))


def format_instruction(instruction: str) -> str:
    """Write the instruction and the blank line that ends it; raise if its end could not be found again."""
    if not instruction:
        return ""
    text = instruction + "\n\n"
    if not instruction.strip() or end_of_instruction(text + "|") != len(text):
        raise ValueError(
            "instruction must not be blank, hold a blank line, end with a line break or leave a double quote open, "
            f"because a blank line ends it in the text; got {shorten(instruction)!r}."
        )
    return text


def end_of_instruction(text: str) -> int:
    """Return the position where the header begins: after the first blank line outside quotes, or 0."""
    blank = find_outside_quotes(text, "\n\n")
    return 0 if blank == -1 else blank + 2


def _separator_of_header(line: str) -> str:
    bare = _QUOTED.sub('""', line)
    found = _BAR.search(bare) or _SEPARATOR.search(bare)
    return found[0] if found else HEADER_SEPARATOR


def _separator_of_fields(line: str) -> str:
    bare = _QUOTED.sub('""', line)
    found = None if FIELD_SEPARATOR in bare else _SEPARATOR.search(bare)
    return found[0] if found else FIELD_SEPARATOR
