"""JSON: records, groups, columns or rows, on one line or indented, or one object per line."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from skllm4es.formats._base import Format
from skllm4es.formats._documents import Document, build_document, flow, is_flat, records
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import json_string

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")


class JSONFormat(Format):
    """JSON texts; numbers are written as numbers, with all their digits."""

    name = "json"
    _form = re.compile(r"\A[{\[].*[}\]]\Z", re.DOTALL)
    # A number with thousands separators would be a string among numbers.
    _restyled = ("date",)

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        key, leaf = cache(json_string), cache(_leaf)
        rows = presentation.rows
        if len(rows) > 1 and len(presentation.groups) == 1 and rng.random() < 0.1:
            return "\n".join([flow(record, key, leaf) for record in records(presentation.names, rows)])
        document = build_document(presentation, rng)
        indent = rng.choice([0, 2, 2, 4])
        return _indented(document, key, leaf, indent, rng.random() < 0.5) if indent else flow(document, key, leaf)


def _leaf(value: str) -> str:
    return value if _NUMBER.fullmatch(value) else json_string(value)


def _indented(
    document: Document,
    key: Callable[[str], str],
    leaf: Callable[[str], str],
    indent: int,
    flat_on_one_line: bool,
) -> str:
    def write(node: Any, margin: str) -> str:
        if isinstance(node, str):
            return leaf(node)
        if not node or (flat_on_one_line and is_flat(node)):
            return flow(node, key, leaf)
        inner = margin + " " * indent
        if isinstance(node, dict):
            lines = [f"{inner}{key(name)}: {write(item, inner)}" for name, item in node.items()]
            return "{" + ",".join(lines) + margin + "}"
        return "[" + ",".join([inner + write(item, inner) for item in node]) + margin + "]"

    return write(document, "\n")
