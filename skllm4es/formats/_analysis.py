"""Sentences about a user's events: the title of a text and the short analysis at its end.

They show values on one line of printable characters, so that no value can break out of its sentence.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from typing import NamedTuple

from skllm4es.formats._columns import Column
from skllm4es.formats._printable import printable

#: More digits than sums and means of amounts have; the caller's context may have fewer.
_CONTEXT = Context(prec=200)
_MOST_DECIMALS = 30


class Noun(NamedTuple):
    """What a text calls an event."""

    one: str
    many: str

    def counted(self, number: int) -> str:
        """Return the number of events in words."""
        return f"{number} {self.one if number == 1 else self.many}" if number else f"No {self.many}"


def choose_noun(columns: Sequence[Column], rng: random.Random) -> Noun:
    """Choose what to call an event, depending on what its fields hold, such as "transaction"."""
    kinds = {column.kind for column in columns}
    nouns = [Noun("event", "events"), Noun("record", "records"), Noun("entry", "entries")]
    if "amount" in kinds:
        nouns += [Noun("transaction", "transactions"), Noun("operation", "operations")]
    if "score" in kinds:
        nouns += [Noun("rating", "ratings"), Noun("review", "reviews")]
    return rng.choice(nouns)


def make_title(columns: Sequence[Column], n_events: int, noun: Noun, rng: random.Random) -> str:
    """Return the line that a text begins with, without a full stop."""
    titles = [
        f"{noun.many.capitalize()} of one user",
        f"The user's {noun.many}",
        f"List of {noun.many}",
        f"{noun.one.capitalize()} history",
        f"User history: {noun.counted(n_events).lower()}",
    ]
    titles += [f"{noun.many.capitalize()} {period(column)}" for column in columns if _orders_events(column)]
    return rng.choice(titles)


def analyse(columns: Sequence[Column], n_events: int, noun: Noun, rng: random.Random) -> list[str]:
    """Return one to four sentences about the events, without full stops."""
    sentences = [rng.choice([f"Number of {noun.many}: {n_events}", f"{noun.counted(n_events)} in total"])]
    for column in columns:
        sentences += _sentences(column, n_events, rng)
    return rng.sample(sentences, rng.randint(1, min(4, len(sentences))))


def value_counts(column: Column) -> list[tuple[str, int]]:
    """Count the events with each value that is not missing, as shown on one line, the most frequent first."""
    return [(printable(value), times) for value, times in Counter(filter(None, column.shown)).most_common()]


def measure(column: Column) -> dict[str, str]:
    """Return measures of a column of amounts or scores that has values, as the column shows numbers."""
    with localcontext(_CONTEXT):
        numbers = [Decimal(value) for value in column.raw if value]
        total = sum(numbers, start=Decimal(0))
        # As many decimals as the numbers have, so that it lies between them.
        decimals = min(max(2, *(-int(number.as_tuple().exponent) for number in numbers)), _MOST_DECIMALS)
        mean = (total / len(numbers)).quantize(Decimal(1).scaleb(-decimals))
    measures = {"Average": mean, "Lowest": min(numbers), "Highest": max(numbers)}
    if column.kind == "amount":
        measures["Total"] = total
    return {label: column.show(f"{number:f}") for label, number in measures.items()}


def period(column: Column) -> str:
    """Return the first and the last date of a column of dates that has values."""
    dates = [pair for pair in zip(column.raw, column.shown, strict=True) if pair[0]]
    return f"from {min(dates)[1]} to {max(dates)[1]}"


def _orders_events(column: Column) -> bool:
    """Whether a column holds dates in the order of the events."""
    dates = [date for date in column.raw if date]
    return column.kind == "date" and dates == sorted(dates)


def _sentences(column: Column, n_events: int, rng: random.Random) -> list[str]:
    name = printable(column.name)
    if column.kind == "date":
        return [f"{'The history runs' if _orders_events(column) else f'{name}:'} {period(column)}"]
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
