"""The breakdown of a history: totals, counts by value and by time, and only the first and the last event.

The paper calls it a transaction breakdown. What is shown of a column depends on its kind.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

from skllm4es.formats._analysis import measure, period, value_counts
from skllm4es.formats._base import Format
from skllm4es.formats._columns import Column
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import printable

# A heading and its lines, each a label and a value.
Section = tuple[str, list[tuple[str, str]]]


class BreakdownFormat(Format):
    """A summary of all events: totals, counts by category and by time, the first and the last event."""

    name = "breakdown"
    complete = False
    _styles = ("words", "title")
    _grouped = False

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        columns, n_events = presentation.columns, len(presentation.rows)
        sections = [section for column in columns for section in _sections(column, n_events, rng)]
        sections += _ends(columns, presentation.noun.one, n_events)
        rng.shuffle(sections)
        overview = (
            rng.choice(["Overview", "Totals"]),
            [(f"Number of {presentation.noun.many}", str(n_events))],
        )
        if not n_events:
            overview[1].append(("Fields", ", ".join([printable(column.name) for column in columns])))
        write = rng.choice([_as_bullets, _as_lines, _as_paragraph])
        return "\n\n".join([presentation.title, *[write(*section) for section in [overview, *sections]]])


def _sections(column: Column, n_events: int, rng: random.Random) -> list[Section]:
    name = printable(column.name)
    if not any(column.raw):
        return []
    if column.kind == "date":
        return [(rng.choice(["Period", "Time"]), [(name, period(column))]), _by_time(column, rng)]
    if column.kind in ("amount", "score"):
        measures = list(measure(column).items())
        return [(_capital(name), rng.sample(measures, len(measures)))]
    heading = rng.choice(["By {}", "Breakdown by {}", "{} counts"]).format(name)
    return [(_capital(heading), _most_frequent(value_counts(column), n_events, rng))]


def _most_frequent(counts: list[tuple[str, int]], n_events: int, rng: random.Random) -> list[tuple[str, str]]:
    n_shown = rng.randint(3, 10)
    share = rng.choice([lambda times: f"{times}", lambda times: f"{times} ({times / n_events:.0%})"])
    lines = [(value, share(times)) for value, times in counts[:n_shown]]
    rest = sum(times for _, times in counts[n_shown:])
    return [*lines, ("other", share(rest))] if rest else lines


def _by_time(column: Column, rng: random.Random) -> Section:
    """Count by day, or by month if there are too many days for a summary."""
    name, show = printable(column.name), cache(column.show)
    days = Counter(date[:10] for date in column.raw if date)
    if len(days) <= rng.randint(3, 15):
        return f"By day of {name}", [(show(day), str(times)) for day, times in days.items()]
    months = Counter(date[:7] for date in column.raw if date)
    return f"By month of {name}", [(month, str(times)) for month, times in months.items()]


def _ends(columns: Sequence[Column], noun: str, n_events: int) -> list[Section]:
    ends = {"First": 0, "Last": n_events - 1} if n_events else {}
    return [(f"{label} {noun}", _details(columns, position)) for label, position in ends.items()]


def _details(columns: Sequence[Column], position: int) -> list[tuple[str, str]]:
    return [(printable(column.name), printable(value)) for column in columns if (value := column.shown[position])]


def _as_bullets(heading: str, lines: list[tuple[str, str]]) -> str:
    return "\n".join([f"{heading}:", *[f"- {label}: {value}" for label, value in lines]])


def _as_lines(heading: str, lines: list[tuple[str, str]]) -> str:
    return "\n".join([heading.upper(), *[f"{label}\t{value}" for label, value in lines]])


def _as_paragraph(heading: str, lines: list[tuple[str, str]]) -> str:
    return f"{heading}: " + "; ".join([f"{label} {value}" for label, value in lines]) + "."


def _capital(heading: str) -> str:
    return heading[:1].upper() + heading[1:]
