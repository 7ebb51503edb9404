"""The structures of nested lists and mappings that JSON and YAML texts share: building one, and reading it.

Leaves are strings; the formats decide how each is written.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from skllm4es.formats._variation import Presentation, Row

Document = str | list[Any] | dict[str, Any]

_TITLE, _ANALYSIS, _GROUP, _COLUMNS, _ROWS = "title", "analysis", "group", "columns", "rows"


def build_document(presentation: Presentation, rng: random.Random, *, names_as_keys: bool = True) -> Document:
    """Choose a structure for the events and build it.

    Parameters
    ----------
    presentation : Presentation
        What to show.
    rng : random.Random
        Chooses the structure.
    names_as_keys : bool, default=True
        Whether the names of the fields may be keys of mappings.

    Returns
    -------
    list or dict
        A list of events, or a mapping that holds the events under the noun of the presentation: as a list, as
        a list of groups, as columns of values or as a table of rows.
    """
    body = _build_body(presentation, rng, names_as_keys)
    if isinstance(body, list) and not presentation.analysis and rng.random() < 0.4:
        return body
    document = {presentation.noun.many: body}
    if rng.random() < 0.5:
        document = {_TITLE: presentation.title} | document
    if presentation.analysis:
        document[_ANALYSIS] = presentation.analysis
    return document


def read_document(document: Any) -> tuple[list[str], list[Sequence[str]]]:
    """Read the names and the events from any structure that `build_document` builds.

    Parameters
    ----------
    document : list or dict
        The structure.

    Returns
    -------
    names : list of str
        The names of the fields.
    rows : list of sequence of str
        The events in the order of the text.
    """
    body = document
    if isinstance(document, dict):
        body = next(value for key, value in document.items() if key not in (_TITLE, _ANALYSIS))
    if isinstance(body, list):
        return _read_records(body)
    if _is_table(body):
        return body[_COLUMNS], body[_ROWS]
    return list(body), list(zip(*body.values(), strict=True))


def records(names: Sequence[str], rows: Sequence[Row]) -> list[dict[str, str]]:
    """Make a mapping of each event.

    Parameters
    ----------
    names : sequence of str
        The names of the fields.
    rows : sequence of tuple of str
        The events.

    Returns
    -------
    list of dict
        One mapping of names to values an event.
    """
    return [dict(zip(names, row, strict=True)) for row in rows]


def flow(node: Document, key: Callable[[str], str], leaf: Callable[[str], str]) -> str:
    """Write a structure on one line, in braces and brackets.

    Parameters
    ----------
    node : str, list or dict
        The structure.
    key : callable of str to str
        Writes the keys of mappings.
    leaf : callable of str to str
        Writes the leaves.

    Returns
    -------
    str
        The line.
    """
    if isinstance(node, str):
        return leaf(node)
    if isinstance(node, dict):
        return "{" + ", ".join([f"{key(name)}: {flow(item, key, leaf)}" for name, item in node.items()]) + "}"
    return "[" + ", ".join([flow(item, key, leaf) for item in node]) + "]"


def is_flat(node: Document) -> bool:
    """Say whether a list or a mapping holds leaves only, and so fits on one line."""
    return all(isinstance(item, str) for item in (node.values() if isinstance(node, dict) else node))


def _build_body(presentation: Presentation, rng: random.Random, names_as_keys: bool) -> Document:
    names, rows = presentation.names, presentation.rows
    layout = rng.choices(["records", "table", "columns"], [4, 1, 1])[0]
    # Without events, only the table still tells the names.
    if not rows or not names_as_keys:
        layout = "table"
    elif len(presentation.groups) > 1:
        many = presentation.noun.many
        return [{_GROUP: group.label, many: records(names, group.rows)} for group in presentation.groups]
    if layout == "records":
        return records(names, rows)
    if layout == "columns":
        return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    return {_COLUMNS: names, _ROWS: [list(row) for row in rows]}


def _read_records(items: list[dict[str, Any]]) -> tuple[list[str], list[Sequence[str]]]:
    *_, last = items[0].values()
    if isinstance(last, list):
        *_, many = items[0]
        items = [record for group in items for record in group[many]]
    return list(items[0]), [list(record.values()) for record in items]


def _is_table(body: dict[str, Any]) -> bool:
    """Tell a table from columns of values, two of which may have the names of a table's parts."""
    return list(body) == [_COLUMNS, _ROWS] and all(isinstance(row, list) for row in body[_ROWS])
