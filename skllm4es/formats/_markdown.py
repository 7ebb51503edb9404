"""Markdown: tables or lists of events under headings, the analysis as a quotation."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache

from skllm4es.formats._base import LosslessFormat
from skllm4es.formats._quoting import quote, unquote
from skllm4es.formats._variation import Presentation

# Characters that begin Markdown or HTML markup within a line; an underscore does so only at the edge of a
# word.
_SPECIAL = re.compile(r"[\\`*<|\[~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
_ESCAPED = re.compile(r"\\(.)")
_CHARACTER = r"(?:[^\\|*\n]|\\.)"
_CELL = re.compile(rf"\|({_CHARACTER}*+)(?=\|)")
_FIELD = re.compile(rf"\*\*({_CHARACTER}*+)\*\*: ({_CHARACTER}*?)(?=; \*\*|\n|\Z)")
_NEXT_EVENT = re.compile(r"\n(?=\S)")

Cells = Sequence[Sequence[str]]


class MarkdownFormat(LosslessFormat):
    """Markdown texts; markup inside values is escaped by backslashes."""

    name = "markdown"
    _form = re.compile(r"\A(?![<{\[])(?s:.*?)(?:^[ \t]*(?:[-#>*+|]|[0-9]+[.)]\s)|\*\*)", re.MULTILINE)

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        text = cache(_escape)
        write = rng.choice([_write_table, _write_table, _write_lines, _write_nested_lists])
        if not presentation.rows:
            write = _write_table
        names = [text(name) for name in presentation.names]
        blocks = [f"# {presentation.title}"] if rng.random() < 0.6 else []
        for group in presentation.groups:
            blocks += [f"## {text(group.label)}"] if group.label else []
            blocks.append(write(names, [[text(value) for value in row] for row in group.rows]))
        if presentation.analysis:
            blocks.append("\n".join([f"> - {text(sentence)}" for sentence in presentation.analysis]))
        return "\n\n".join(blocks)

    def _read(self, text: str) -> tuple[list[str], Cells]:
        blocks = [block for block in text.split("\n\n") if not block.startswith(("#", ">"))]
        read = _read_table if blocks[0].startswith("|") else _read_lists
        tables = [read(block) for block in blocks]
        return tables[0][0], [row for _, rows in tables for row in rows]


def _escape(value: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", quote(value))


def _unescape(text: str) -> str:
    return unquote(_ESCAPED.sub(r"\1", text))


def _write_table(names: Sequence[str], rows: Cells) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join([f"| {' | '.join(cells)} |" for cells in lines])


def _write_lines(names: Sequence[str], rows: Cells) -> str:
    return _write_lists(names, rows, "; ")


def _write_nested_lists(names: Sequence[str], rows: Cells) -> str:
    return _write_lists(names, rows, "\n  - ")


def _write_lists(names: Sequence[str], rows: Cells, separator: str) -> str:
    labels = [f"**{name}**: " for name in names]
    return "\n".join(["- " + separator.join(map(str.__add__, labels, row)) for row in rows])


def _read_table(block: str) -> tuple[list[str], Cells]:
    names, _, *rows = [[_unescape(cell.strip(" ")) for cell in _CELL.findall(line)] for line in block.split("\n")]
    return names, rows


def _read_lists(block: str) -> tuple[list[str], Cells]:
    events = [_FIELD.findall(event) for event in _NEXT_EVENT.split(block)]
    names = [_unescape(name) for name, _ in events[0]]
    return names, [[_unescape(value) for _, value in event] for event in events]
