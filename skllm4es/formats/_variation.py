"""What one rewriting shows, before any markup: names, order, values, groups, a title and an analysis.

`present` makes the random choices that all formats share; each format then only writes the result in its
markup. `restore` is the way back: from a table that a lossless format has read to the original's names and
order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple

from skllm4es.formats._analysis import Noun, analyse, choose_noun, make_title
from skllm4es.formats._columns import Column, Variation, choose_columns
from skllm4es.formats._names import NUMBER, STYLES, spellings
from skllm4es.formats._restyling import KINDS, Kind, canonical_value
from skllm4es.serialize import EventTable

Row = tuple[str, ...]


class Group(NamedTuple):
    """Events under a common heading, which repeats what the events say and so may be skipped when reading."""

    label: str
    rows: list[Row]


@dataclass(frozen=True)
class Presentation:
    """All that one rewriting shows.

    Parameters
    ----------
    noun : Noun
        What the text calls an event.
    title : str
        A line about the whole text.
    columns : list of Column
        The fields in the order of the text.
    names : list of str
        Their names; one more, the first, if the events are numbered.
    groups : list of Group
        The events; a single group without a label if they are not grouped.
    analysis : list of str
        Sentences about the events; empty if there is no analysis.
    """

    noun: Noun
    title: str
    columns: list[Column]
    names: list[str]
    groups: list[Group]
    analysis: list[str]

    @property
    def rows(self) -> list[Row]:
        """The events of all groups."""
        return [row for group in self.groups for row in group.rows]


def present(
    table: EventTable,
    rng: random.Random,
    variation: Variation,
    *,
    styles: Sequence[str] = STYLES,
    restyled: Sequence[Kind] = KINDS,
    grouped: bool = True,
) -> Presentation:
    """Choose what a rewriting of a table shows.

    Parameters
    ----------
    table : EventTable
        The events.
    rng : random.Random
        Makes all choices.
    variation : Variation
        What may be chosen.
    styles : sequence of str, default=STYLES
        The styles of names that suit the format.
    restyled : sequence of {"date", "amount", "score", "category", "text"}, default=KINDS
        The kinds of values that may be written in another way in the format.
    grouped : bool, default=True
        Whether the format has headings for groups.

    Returns
    -------
    Presentation
        What to write.
    """
    columns = choose_columns(table, rng, variation, styles, restyled)
    n_events = len(table.rows)
    noun = choose_noun(columns, rng)
    rows = list(zip(*[column.shown for column in columns], strict=True))
    groups, names = [Group("", rows)], [column.name for column in columns]
    if grouped and rng.random() < 0.4:
        groups, names = _choose_groups(columns, rows, names, rng)
    title = make_title(columns, n_events, noun, rng)
    analysis = analyse(columns, n_events, noun, rng) if variation.analysis and rng.random() < 0.6 else []
    return Presentation(noun, title, columns, names, groups, analysis)


def in_order(names: Sequence[str], rows: Sequence[Sequence[str]]) -> EventTable:
    """Bring events that were read from a text back into their order, and drop their numbers.

    Parameters
    ----------
    names : sequence of str
        The names of the fields.
    rows : sequence of sequence of str
        The events in the order of the text.

    Returns
    -------
    EventTable
        The events, earliest first, without numbers.
    """
    if NUMBER not in names:
        return EventTable(list(names), [list(row) for row in rows])
    position = list(names).index(NUMBER)
    ordered = sorted(rows, key=lambda row: int(row[position]))
    return EventTable(_without(names, position), [_without(row, position) for row in ordered])


def restore(table: EventTable, header: Sequence[str]) -> EventTable:
    """Bring a table that was read from a rewritten text back to the original's names, order and values.

    Parameters
    ----------
    table : EventTable
        What a lossless format's ``parse`` gave.
    header : sequence of str
        The names of the original's fields.

    Returns
    -------
    EventTable
        The original table, its values as `canonical_value` gives them.

    Raises
    ------
    ValueError
        If the names of the table are not spellings of the header's.

    Examples
    --------
    >>> from skllm4es.formats import restore
    >>> from skllm4es.serialize import EventTable
    >>> restore(EventTable(["transactionValue", "day"], [["1,250", "March 5, 2020"]]), ["date", "trx_amount"])
    EventTable(header=['date', 'trx_amount'], rows=[['2020-03-05', '1250']])
    """
    owners = {
        name: position
        for position, styles in enumerate(spellings(tuple(header)))
        for names in styles.values()
        for name in names
    }
    found = {owners.get(name): position for position, name in enumerate(table.header)}
    if set(found) != set(range(len(header))) or len(table.header) != len(header):
        raise ValueError(f"The names {table.header!r} are not spellings of the header {list(header)!r}.")
    canonical = cache(canonical_value)
    rows = [[canonical(row[found[position]]) for position in range(len(header))] for row in table.rows]
    return EventTable(list(header), rows)


def _choose_groups(
    columns: list[Column], rows: list[Row], names: list[str], rng: random.Random
) -> tuple[list[Group], list[str]]:
    """Group by one column, unless that gives a single group or groups of hardly more than one event."""
    options = [column for column in columns if column.kind in ("date", "category")]
    if options:
        column = rng.choice(options)
        by_day = column.kind == "date"
        groups = list(_by_day(column, rows)) if by_day else _by_category(column, rows)
        if 1 < len(groups) <= len(rows) / 2:
            return groups, names if by_day else [NUMBER, *names]
    return [Group("", rows)], names


def _by_day(column: Column, rows: list[Row]) -> Iterator[Group]:
    """Give runs of events of one day, so that the order of the events stays."""
    show = cache(column.show)
    for day, run in groupby(zip(column.raw, rows, strict=True), key=lambda pair: pair[0][:10]):
        yield Group(show(day) or "undated", [row for _, row in run])


def _by_category(column: Column, rows: list[Row]) -> list[Group]:
    """Gather the events of each category and number them, so that their order can be told."""
    members: dict[str, list[Row]] = {}
    for number, (value, row) in enumerate(zip(column.shown, rows, strict=True), start=1):
        members.setdefault(value, []).append((str(number), *row))
    return [Group(value or "none", group) for value, group in members.items()]


def _without(row: Sequence[str], position: int) -> list[str]:
    return [*row[:position], *row[position + 1 :]]
