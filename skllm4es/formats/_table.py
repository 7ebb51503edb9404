"""Plain tables: columns aligned under a rule, with or without a grid, or values separated as in CSV files."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Sequence
from functools import cache

from skllm4es.formats._base import Format
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import printable

# What comes before, between and after the cells of a line, and likewise in the rule under the header.
_ALIGNED = [
    ("", "  ", "", "", "  ", ""),
    ("", " | ", "", "", "-+-", ""),
    ("| ", " | ", " |", "+-", "-+-", "-+"),
]
_RULE = re.compile(r"[ +-]*-[ +-]*")

_DELIMITERS = [",", ";", "\t"]

Cells = Sequence[Sequence[str]]


class TableFormat(Format):
    """Plain tables, under a title."""

    name = "table"
    _grouped = False

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        text = cache(printable)
        names = [text(name) for name in presentation.names]
        rows = [[text(value) for value in row] for row in presentation.rows]
        # After a single name, there is no delimiter for a reader to find.
        lines = _separate(names, rows, rng.choice(_DELIMITERS) if len(names) > 1 else _DELIMITERS[0])
        # A first event of nothing but dashes would look like the rule of an aligned table.
        if rng.random() < 0.6 or _is_rule_second(lines):
            right = [column.kind == "amount" for column in presentation.columns]
            lines = _align(names, rows, right, rng)
        blocks = [[presentation.title + rng.choice(["", ":"])], lines]
        if presentation.analysis:
            blocks.append([f"{sentence}." for sentence in presentation.analysis])
        return "\n\n".join(["\n".join(block) for block in blocks])


def _is_rule_second(lines: list[str]) -> bool:
    return len(lines) > 1 and _RULE.fullmatch(lines[1]) is not None


def _separate(names: Sequence[str], rows: Cells, delimiter: str) -> list[str]:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(names)
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue().split("\n")[:-1]


def _align(names: Sequence[str], rows: Cells, right: Sequence[bool], rng: random.Random) -> list[str]:
    start, between, end, rule_start, rule_between, rule_end = rng.choice(_ALIGNED)
    columns = list(map(_pad, zip(names, *rows, strict=True), right))
    lines = [start + between.join(cells) + end for cells in zip(*columns, strict=True)]
    rule = rule_start + rule_between.join(["-" * len(column[0]) for column in columns]) + rule_end
    lines.insert(1, rule)
    return [rule, *lines, rule] if start else lines


def _pad(cells: Sequence[str], right: bool) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]
