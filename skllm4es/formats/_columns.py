"""The fields of the events as one rewriting shows them: their order, their names and how values are written.

All is decided once a column, and every distinct value is written once: this is what makes the formats fast.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skllm4es.formats._names import spell_names
from skllm4es.formats._restyling import Kind, choose_writer, column_kind
from skllm4es.serialize import EventTable


@dataclass(frozen=True)
class Variation:
    r"""What may differ from the original text, besides its markup and the order of its fields.

    Parameters
    ----------
    names : bool, default=True
        Spell the fields' names in other ways.
    values : bool, default=True
        Write dates and amounts in other ways.
    analysis : bool, default=True
        End some texts with a short analysis of the events.

    Examples
    --------
    >>> import random
    >>> from skllm4es.formats import FORMATS, Variation
    >>> from skllm4es.serialize import parse_events
    >>> table = parse_events("title|rating\nHeat, 5")
    >>> "title" in FORMATS["json"].render(table, random.Random(0), Variation(names=False)).lower()
    True
    """

    names: bool = True
    values: bool = True
    analysis: bool = True


@dataclass(frozen=True)
class Column:
    """One field of all events, as a text shows it.

    Parameters
    ----------
    name : str
        The field's name as shown.
    kind : {"date", "amount", "score", "category", "text"}
        What kind of values it holds.
    raw : sequence of str, length n_events
        The values of the original.
    shown : sequence of str, length n_events
        The values as shown.
    show : callable of str to str
        How a value of this column is shown.
    """

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
    """Choose the order of the fields, and for each a name and a way of writing its values.

    Parameters
    ----------
    table : EventTable
        The events.
    rng : random.Random
        Makes all choices.
    variation : Variation
        What may be chosen.
    styles : sequence of str
        The styles of names that suit the format.
    restyled : sequence of {"date", "amount", "score", "category", "text"}
        The kinds of values that may be written in another way.

    Returns
    -------
    list of Column
        The fields in the order of the text.
    """
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
