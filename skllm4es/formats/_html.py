"""HTML: a table, description lists or a list of lines, as a page or a fragment of one."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from html.parser import HTMLParser

from skllm4es.formats._base import LosslessFormat
from skllm4es.formats._quoting import quote, unquote
from skllm4es.formats._variation import Presentation

# The tags of an event, of a field's name and of its value, by layout. Nothing else in a text has these tags.
_EVENT_TAGS = {"tr", "dl", "li"}
_NAME_TAGS = {"th", "dt", "strong"}
_VALUE_TAGS = {"td", "dd", "span"}

Cells = Sequence[Sequence[str]]


class HTMLFormat(LosslessFormat):
    """HTML texts; markup inside values is escaped."""

    name = "html"
    _form = re.compile(r"\A<.*>\Z", re.DOTALL)

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        text = cache(_escape)
        write = rng.choice([_write_table, _write_table, _write_descriptions, _write_lines])
        if not presentation.rows:
            write = _write_table
        names = [text(name) for name in presentation.names]
        lines = [f"<h1>{presentation.title}</h1>"] if rng.random() < 0.6 else []
        for group in presentation.groups:
            lines += [f"<h2>{text(group.label)}</h2>"] if group.label else []
            lines += write(names, [[text(value) for value in row] for row in group.rows])
        lines += [f"<p>{text(sentence)}.</p>" for sentence in presentation.analysis]
        if rng.random() < 0.4:
            head = f"<head><title>{presentation.title}</title></head>"
            lines = ["<!DOCTYPE html>", "<html>", head, "<body>", *lines, "</body>", "</html>"]
        return rng.choice(["\n", "\n", ""]).join(lines)

    def _read(self, text: str) -> tuple[list[str], Cells]:
        reader = _EventReader()
        reader.feed(text)
        reader.close()
        return reader.names, reader.rows


class _EventReader(HTMLParser):
    """Collects the names and the values of all events of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.rows: list[list[str]] = []
        self._text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _EVENT_TAGS:
            self.rows.append([])
        self._text = ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in _NAME_TAGS and (name := unquote(self._text)) not in self.names:
            self.names.append(name)
        if tag in _VALUE_TAGS:
            self.rows[-1].append(unquote(self._text))
        if tag in _EVENT_TAGS and not self.rows[-1]:
            self.rows.pop()


def _escape(value: str) -> str:
    return escape(quote(value), quote=False)


def _write_table(names: Sequence[str], rows: Cells) -> list[str]:
    head = "<tr>" + "".join([f"<th>{name}</th>" for name in names]) + "</tr>"
    body = ["<tr><td>" + "</td><td>".join(row) + "</td></tr>" for row in rows]
    return ["<table>", head, *body, "</table>"]


def _write_descriptions(names: Sequence[str], rows: Cells) -> list[str]:
    labels = [f"<dt>{name}</dt><dd>" for name in names]
    return ["<dl>" + "</dd>".join(map(str.__add__, labels, row)) + "</dd></dl>" for row in rows]


def _write_lines(names: Sequence[str], rows: Cells) -> list[str]:
    labels = [f"<strong>{name}</strong>: <span>" for name in names]
    return [
        "<ul>",
        *["<li>" + "</span>, ".join(map(str.__add__, labels, row)) + "</span></li>" for row in rows],
        "</ul>",
    ]
