"""Markdown: tables or lists of events under headings, the analysis as a quotation."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache

from skllm4es.formats._base import Format
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import printable

# Characters that begin Markdown or HTML markup within a line, an underscore only at the edge of a word.
_SPECIAL = re.compile(r"[\\`*<|\[~]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")

Cells = Sequence[Sequence[str]]


class MarkdownFormat(Format):
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


def _escape(value: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", printable(value))


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
