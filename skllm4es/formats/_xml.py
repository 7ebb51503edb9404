"""XML: one element per event, its fields as elements or attributes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple
from xml.sax.saxutils import escape  # parses nothing  # nosec B406

from skllm4es.formats._base import Format
from skllm4es.formats._names import IDENTIFIERS
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import printable

_TAG = re.compile(r"(?!xml)[A-Za-z_][A-Za-z0-9_.-]*", re.IGNORECASE)


class XMLFormat(Format):
    """XML texts; characters that XML cannot hold are written as in JSON."""

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


class _Layout(NamedTuple):
    """The markup around the values of one event."""

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
    return escape(printable(value), {'"': "&quot;"})
