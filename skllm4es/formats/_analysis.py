"""Sentences about a user's events: the title of a text and the short analysis at its end.

They name values as the text shows them, each on one line of printable characters, so that no value can break
out of its sentence.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from skllm4es.formats._columns import Column
from skllm4es.formats._quoting import quote


class Noun(NamedTuple):
    """What a text calls an event."""

    one: str
    many: str

    def counted(self, number: int) -> str:
        """Say how many events there are."""
        return f"{number} {self.one if number == 1 else self.many}" if number else f"No {self.many}"


def choose_noun(columns: Sequence[Column], rng: random.Random) -> Noun:
    """Choose what to call an event, by what its fields hold.

    Parameters
    ----------
    columns : sequence of Column
        The fields of the events.
    rng : random.Random
        Chooses.

    Returns
    -------
    Noun
        For example "transaction" and "transactions".
    """
    kinds = {column.kind for column in columns}
    nouns = [Noun("event", "events"), Noun("record", "records"), Noun("entry", "entries")]
    if "amount" in kinds:
        nouns += [Noun("transaction", "transactions"), Noun("operation", "operations")]
    if "score" in kinds:
        nouns += [Noun("rating", "ratings"), Noun("review", "reviews")]
    return rng.choice(nouns)


def make_title(columns: Sequence[Column], n_events: int, noun: Noun, rng: random.Random) -> str:
    """Make the line that a text begins with.

    Parameters
    ----------
    columns : sequence of Column
        The fields of the events.
    n_events : int
        The number of events.
    noun : Noun
        What the text calls an event.
    rng : random.Random
        Chooses the wording.

    Returns
    -------
    str
        The title, without a full stop.
    """
    titles = [
        f"{noun.many.capitalize()} of one user",
        f"The user's {noun.many}",
        f"List of {noun.many}",
        f"{noun.one.capitalize()} history",
        f"User history: {noun.counted(n_events).lower()}",
    ]
    titles += [f"{noun.many.capitalize()} {period(column)}" for column in columns if column.kind == "date"]
    return rng.choice(titles)


def analyse(columns: Sequence[Column], n_events: int, noun: Noun, rng: random.Random) -> list[str]:
    """Say a few things about the events.

    Parameters
    ----------
    columns : sequence of Column
        The fields of the events.
    n_events : int
        The number of events.
    noun : Noun
        What the text calls an event.
    rng : random.Random
        Chooses what to say, and the wording.

    Returns
    -------
    list of str
        One to four sentences without a full stop.
    """
    sentences = [rng.choice([f"Number of {noun.many}: {n_events}", f"{noun.counted(n_events)} in total"])]
    for column in columns:
        sentences += _sentences(column, n_events, rng)
    return rng.sample(sentences, rng.randint(1, min(4, len(sentences))))


def value_counts(column: Column) -> list[tuple[str, int]]:
    """Count how many events have each value.

    Parameters
    ----------
    column : Column
        A field of the events.

    Returns
    -------
    list of (str, int)
        The values as shown, each on one line, and their counts; the most frequent first, missing ones left
        out.
    """
    return [(quote(value), times) for value, times in Counter(filter(None, column.shown)).most_common()]


def measure(column: Column) -> dict[str, str]:
    """Measure a column of amounts or scores.

    Parameters
    ----------
    column : Column
        A column of numbers in which some value is present.

    Returns
    -------
    dict of str to str
        What was measured, and the result as the column shows numbers.
    """
    numbers = [Decimal(value) for value in column.raw if value]
    mean = (sum(numbers, start=Decimal(0)) / len(numbers)).quantize(Decimal("0.01"))
    measures = {"Average": mean, "Lowest": min(numbers), "Highest": max(numbers)}
    if column.kind == "amount":
        measures["Total"] = sum(numbers, start=Decimal(0))
    return {label: column.show(f"{number:f}") for label, number in measures.items()}


def period(column: Column) -> str:
    """Say which time the events span.

    Parameters
    ----------
    column : Column
        A column of dates in which some value is present.

    Returns
    -------
    str
        The first and the last date as shown; the events are in order of time.
    """
    dates = [date for date in column.shown if date]
    return f"from {dates[0]} to {dates[-1]}"


def _sentences(column: Column, n_events: int, rng: random.Random) -> list[str]:
    name = quote(column.name)
    if column.kind == "date":
        return [f"The history runs {period(column)}"]
    if column.kind == "category":
        value, times = value_counts(column)[0]
        wordings = [
            f"Most frequent {name}: {value} ({times} of {n_events})",
            f"Main {name}: {value}, {times} times",
        ]
        return [rng.choice(wordings)]
    if column.kind in ("amount", "score"):
        return [f"{label} {name}: {value}" for label, value in rng.sample(list(measure(column).items()), 2)]
    return []
