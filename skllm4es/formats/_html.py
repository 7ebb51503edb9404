"""HTML: a table, description lists or a list of lines, as a page or a fragment of one."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache
from html import escape

from skllm4es.formats._base import Format
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import printable

Cells = Sequence[Sequence[str]]


class HTMLFormat(Format):
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


def _escape(value: str) -> str:
    return escape(printable(value), quote=False)


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
