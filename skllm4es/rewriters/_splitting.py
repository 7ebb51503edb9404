"""Splitting of texts that are too long for a model, between their events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from skllm4es.rewriters._base import RewritingError, UnreadableTextError
from skllm4es.serialize import EventTable, format_events, parse_events
from skllm4es.serialize._serialised import end_of_instruction


def read_events(text: str) -> EventTable:
    """Parse a text; raise an error that concerns this text alone if it is not in the serialised form."""
    try:
        return parse_events(text)
    except ValueError as error:
        raise UnreadableTextError(f"It is not in the serialised form: {error}") from error


def split_events(
    text: str,
    fits: Callable[[int], bool],
    count: Callable[[Sequence[str]], list[int]],
    max_events: int | None = None,
) -> list[str]:
    """Split a text into parts that fit, each with the instruction and the header.

    `fits` returns whether a part of a given number of tokens fits, and `count` counts the tokens of texts. A part has
    at most `max_events` events. A single event that is too long raises a `RewritingError`.
    """
    table = read_events(text)
    if fits(count([text])[0]) and (max_events is None or len(table.rows) <= max_events):
        return [text]
    head = text[: end_of_instruction(text)]
    names = format_events(table.header, [])
    lines = [format_events(table.header, [row])[len(names) + 1 :] for row in table.rows]
    n_head, *n_tokens = (n + 1 for n in count([head + names, *lines]))
    parts: list[list[str]] = [[]]
    n_part = n_head
    for number, (line, n_line) in enumerate(zip(lines, n_tokens, strict=True), start=1):
        if not fits(n_head + n_line):
            raise RewritingError(
                f"Event {number} of {len(lines)} has {n_line} tokens; with the prompt, the header and the answer it "
                "does not fit into the model's context. Shorten its fields, raise context_length or lower "
                "max_new_tokens if the model allows it, or choose a model with a longer context."
            )
        if parts[-1] and (not fits(n_part + n_line) or len(parts[-1]) == max_events):
            parts.append([])
            n_part = n_head
        parts[-1].append(line)
        n_part += n_line
    return ["\n".join([head + names, *part]) for part in parts]
