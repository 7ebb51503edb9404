"""What the parsers of texts promise, as a function of random bytes: see `fuzz_parsers`."""

import random

from skllm4es.formats import FORMATS, LosslessFormat
from skllm4es.serialize import EventTable, format_events, parse_events

PARSERS = {"events": parse_events} | {
    name: text_format.parse for name, text_format in FORMATS.items() if isinstance(text_format, LosslessFormat)
}


def check(data: bytes) -> None:
    """Let one parser read any text, as it stands, and behind the beginning of one in its form.

    It gives a table or raises a ValueError, and what was read is written and read again as it is.

    Parameters
    ----------
    data : bytes
        Which parser, how its own text begins, and what comes then.
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
    """Give a text in the form of a parser, cut somewhere; of half the seeds nothing."""
    if seed < 128:
        return ""
    table = EventTable(["date", "note"], [["2020-03-05", "a, b"], ["2020-03-06 10:00:00", "</td>'\""]])
    rendered = format_events(table.header, table.rows)
    if name != "events":
        rendered = FORMATS[name].render(table, random.Random(seed))
    return rendered[: len(rendered) * share // 255]
