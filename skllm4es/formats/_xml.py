"""XML: one element an event, its fields as elements or as attributes."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple
from xml.etree import ElementTree  # see below  # nosec B405
from xml.sax.saxutils import escape  # parses nothing  # nosec B406

from skllm4es.formats._base import LosslessFormat
from skllm4es.formats._names import IDENTIFIERS
from skllm4es.formats._quoting import quote, unquote
from skllm4es.formats._variation import Presentation

_TAG = re.compile(r"(?!xml)[A-Za-z_][A-Za-z0-9_.-]*", re.IGNORECASE)
_NOT_EVENTS = {"title", "fields", "analysis"}


class XMLFormat(LosslessFormat):
    """XML texts; what XML has no character for is written as in JSON."""

    name = "xml"
    _form = re.compile(r"\A<.*>\Z", re.DOTALL)
    _styles = IDENTIFIERS

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        text = cache(_escape)
        layout = _choose_layout(presentation, rng)
        pad = rng.choice(["", "\n  ", "\n    "])
        lines = [f"<title>{presentation.title}</title>"] if rng.random() < 0.5 else []
        if not presentation.rows:
            lines.append(
                "<fields>" + "".join([f"<field>{text(name)}</field>" for name in presentation.names]) + "</fields>"
            )
        for group in presentation.groups:
            events = [layout.write([text(value) for value in row]) for row in group.rows]
            if group.label:
                inner = pad + pad.strip("\n")
                events = [f'<group label="{text(group.label)}">{inner}{inner.join(events)}{pad}</group>']
            lines += events
        lines += [f"<analysis>{text(sentence)}</analysis>" for sentence in presentation.analysis]
        head = rng.choice(["", "", '<?xml version="1.0" encoding="UTF-8"?>' + pad[:1]])
        return f"{head}<history>{pad}{pad.join(lines)}{pad[:1]}</history>"

    def _read(self, text: str) -> tuple[list[str], Sequence[Sequence[str]]]:
        # Encoded, because a declared encoding is at odds with a string that is already decoded. Only tests read, what
        # this module wrote.
        root = ElementTree.fromstring(text.encode())  # nosec B314
        events = [_read_event(event) for event in _find_events(root)]
        if not events:
            return [unquote(field.text or "") for field in root.iterfind("fields/field")], []
        return list(events[0]), [list(event.values()) for event in events]


class _Layout(NamedTuple):
    """What stands around the values of one event."""

    start: str
    before: list[str]
    after: list[str]
    end: str

    def write(self, values: Sequence[str]) -> str:
        fields = [before + value + after for before, value, after in zip(self.before, values, self.after, strict=True)]
        return self.start + "".join(fields) + self.end


def _choose_layout(presentation: Presentation, rng: random.Random) -> _Layout:
    tag, names = presentation.noun.one, presentation.names
    start, end = f"<{tag}>", f"</{tag}>"
    if not all(map(_TAG.fullmatch, names)):
        before = [f'<field name="{_escape(name)}">' for name in names]
        return _Layout(start, before, ["</field>"] * len(names), end)
    if rng.random() < 0.4:
        return _Layout(f"<{tag}", [f' {name}="' for name in names], ['"'] * len(names), " />")
    return _Layout(start, [f"<{name}>" for name in names], [f"</{name}>" for name in names], end)


def _escape(value: str) -> str:
    return escape(quote(value), {'"': "&quot;"})


def _find_events(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    for child in root:
        if child.tag == "group":
            yield from child
        elif child.tag not in _NOT_EVENTS:
            yield child


def _read_event(event: ElementTree.Element) -> dict[str, str]:
    fields = event.attrib or {child.get("name", child.tag): child.text or "" for child in event}
    return {unquote(name): unquote(value) for name, value in fields.items()}
