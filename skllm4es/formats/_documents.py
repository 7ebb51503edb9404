"""The structures of nested lists and mappings that JSON and YAML texts share.

Leaves are strings; the formats define how each is written.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from skllm4es.formats._presentation import Presentation, Row

Document = str | list[Any] | dict[str, Any]


def build_document(presentation: Presentation, rng: random.Random, *, names_as_keys: bool = True) -> Document:
    """Choose a structure for the events and build it.

    It is a list of events, or a mapping that holds the events under the presentation's noun: as a list, as a list of
    groups, as columns of values or as a table of rows. `names_as_keys` allows the names of the fields as keys.
    """
    body = _build_body(presentation, rng, names_as_keys)
    if isinstance(body, list) and not presentation.analysis and rng.random() < 0.4:
        return body
    document = {presentation.noun.many: body}
    if rng.random() < 0.5:
        document = {"title": presentation.title} | document
    if presentation.analysis:
        document["analysis"] = presentation.analysis
    return document


def records(names: Sequence[str], rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return each event as a mapping from names to values."""
    return [dict(zip(names, row, strict=True)) for row in rows]


def flow(node: Document, key: Callable[[str], str], leaf: Callable[[str], str]) -> str:
    """Write a structure on one line, in braces and brackets; `key` writes the keys of mappings, `leaf` the leaves."""
    if isinstance(node, str):
        return leaf(node)
    if isinstance(node, dict):
        return "{" + ", ".join([f"{key(name)}: {flow(item, key, leaf)}" for name, item in node.items()]) + "}"
    return "[" + ", ".join([flow(item, key, leaf) for item in node]) + "]"


def is_flat(node: Document) -> bool:
    """Whether a list or a mapping holds only leaves, and so fits on one line."""
    return all(isinstance(item, str) for item in (node.values() if isinstance(node, dict) else node))


def _build_body(presentation: Presentation, rng: random.Random, names_as_keys: bool) -> Document:
    names, rows = presentation.names, presentation.rows
    layout = rng.choices(["records", "table", "columns"], [4, 1, 1])[0]
    # Without events, only the table still contains the names.
    if not rows or not names_as_keys:
        layout = "table"
    elif len(presentation.groups) > 1:
        many = presentation.noun.many
        return [{"group": group.label, many: records(names, group.rows)} for group in presentation.groups]
    if layout == "records":
        return records(names, rows)
    if layout == "columns":
        return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    return {"columns": names, "rows": [list(row) for row in rows]}
