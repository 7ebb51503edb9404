"""What one rewriting shows, before any markup: names, order, values, groups, a title and an analysis.

`present` makes the random choices that all formats share; each format then writes the result in its markup.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple

from skllm4es.formats._analysis import Noun, analyse, choose_noun, make_title
from skllm4es.formats._columns import Column, choose_columns
from skllm4es.formats._names import NUMBER
from skllm4es.formats._restyling import Kind
from skllm4es.formats._variation import Variation
from skllm4es.serialize import EventTable

Row = tuple[str, ...]


class Group(NamedTuple):
    """Events under a common heading, which repeats what the events say, so that a reader may skip it."""

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
        Their names; if the events are numbered, the name of the number comes first.
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
    styles: Sequence[str],
    restyled: Sequence[Kind],
    grouped: bool,
) -> Presentation:
    """Choose what a rewriting shows; the last three arguments say what suits the format."""
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


def _choose_groups(
    columns: list[Column], rows: list[Row], names: list[str], rng: random.Random
) -> tuple[list[Group], list[str]]:
    """Group by one column, unless there would be only one group, or groups of hardly more than one event."""
    options = [column for column in columns if column.kind in ("date", "category")]
    if options:
        column = rng.choice(options)
        by_day = column.kind == "date"
        groups = list(_by_day(column, rows)) if by_day else _by_category(column, rows)
        if 1 < len(groups) <= len(rows) / 2:
            return groups, names if by_day else [NUMBER, *names]
    return [Group("", rows)], names


def _by_day(column: Column, rows: list[Row]) -> Iterator[Group]:
    """Group runs of events on one day, which keeps the order of the events."""
    show = cache(column.show)
    for day, run in groupby(zip(column.raw, rows, strict=True), key=lambda pair: pair[0][:10]):
        yield Group(show(day) or "undated", [row for _, row in run])


def _by_category(column: Column, rows: list[Row]) -> list[Group]:
    """Group the events by category and number them, so that their order is known."""
    members: dict[str, list[Row]] = {}
    for number, (value, row) in enumerate(zip(column.shown, rows, strict=True), start=1):
        members.setdefault(value, []).append((str(number), *row))
    return [Group(value or "none", group) for value, group in members.items()]
