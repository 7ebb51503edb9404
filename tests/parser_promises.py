"""What the parsers of texts promise, as a function of random bytes: see `fuzz_parsers`."""

import random
from functools import partial

from format_readers import LOSSLESS, read

from skllm4es.formats import FORMATS
from skllm4es.serialize import EventTable, format_events, parse_events

PARSERS = {"events": parse_events} | {name: partial(read, name) for name in LOSSLESS}


def check(data: bytes) -> None:
    """Parse an arbitrary text, alone or after the beginning of one in the parser's own form.

    The parser must return a table or raise a ValueError, and a table must survive being written and parsed again.
    The first three bytes choose the parser and how the text begins; the others are the rest of the text.
    """
    if len(data) < 3:
        return
    name = sorted(PARSERS)[data[0] % len(PARSERS)]
    text = _beginning(name, data[1], data[2]) + data[3:].decode("utf-8", "surrogateescape")
    try:
        table = PARSERS[name](text)
    except ValueError:
        return
    assert isinstance(table, EventTable)
    assert all(type(value) is str for row in [table.header, *table.rows] for value in row)
    assert all(len(row) == len(table.header) for row in table.rows)
    if table.header:
        assert parse_events(format_events(table.header, table.rows)) == table


def _beginning(name: str, seed: int, share: int) -> str:
    """Return a text in the form of a parser, cut somewhere, or nothing for half of the seeds."""
    if seed < 128:
        return ""
    table = EventTable(["date", "note"], [["2020-03-05", "a, b"], ["2020-03-06 10:00:00", "</td>'\""]])
    rendered = format_events(table.header, table.rows)
    if name != "events":
        rendered = FORMATS[name].render(table, random.Random(seed))
    return rendered[: len(rendered) * share // 255]
