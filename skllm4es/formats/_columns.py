"""The fields of the events as one rewriting shows them: their order, their names and how values are written.

Everything is chosen once per column, and each distinct value is written once; this makes the formats fast.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skllm4es.formats._names import spell_names
from skllm4es.formats._restyling import Kind, choose_writer, column_kind
from skllm4es.formats._variation import Variation
from skllm4es.serialize import EventTable


@dataclass(frozen=True)
class Column:
    """One field of all events: its name and values as shown, its original values, and the function that shows them."""

    name: str
    kind: Kind
    raw: Sequence[str]
    shown: Sequence[str]
    show: Callable[[str], str]


def choose_columns(
    table: EventTable,
    rng: random.Random,
    variation: Variation,
    styles: Sequence[str],
    restyled: Sequence[Kind],
) -> list[Column]:
    """Choose the order of the fields, and for each a name and a way to write its values."""
    names = spell_names(table.header, rng, styles if variation.names else ["original"])
    columns = list(zip(*table.rows, strict=True)) or [()] * len(names)
    kinds = restyled if variation.values else ()
    order = rng.sample(range(len(names)), len(names))
    return [
        _choose_column(table.header[position], names[position], columns[position], rng, kinds) for position in order
    ]


def _choose_column(
    field: str, name: str, values: Sequence[str], rng: random.Random, restyled: Sequence[Kind]
) -> Column:
    distinct = dict.fromkeys(values)
    kind = column_kind(field, distinct, len(values))
    show = choose_writer(kind, distinct, rng) if kind in restyled else str
    shown = {value: show(value) for value in distinct}
    return Column(name, kind, values, [shown[value] for value in values], show)
