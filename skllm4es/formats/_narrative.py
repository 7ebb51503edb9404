"""Narratives: a sentence about each event.

Every value is mentioned, but where one ends and what it means is left to language, so a narrative cannot be parsed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import cache

from skllm4es.formats._base import Format
from skllm4es.formats._columns import Column
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import printable

_CONNECTIVES = ("then", "next", "after that", "later", "afterwards", "thereafter")

# How a sentence begins, and what comes before the value of each field: its name, with or without an article.
_SENTENCES = (
    ("there was {a_noun} with ", "{a_name} of "),
    ("the user has {a_noun} with ", "{name} "),
    ("{a_noun} was recorded: ", "{name} "),
    ("{a_noun} was noted in which ", "the {name} was "),
    ("we see {a_noun} where ", "the {name} is "),
)

# A kind of sentence: how it begins, and what writes each value.
Wording = tuple[str, list[Callable[[str], str]]]


class NarrativeFormat(Format):
    """Prose: a sentence about each event, in order of time."""

    name = "narrative"
    _form = re.compile(r"\A(?!\{|\[[{\[]|<[a-z!?])", re.IGNORECASE)
    _styles = ("words",)
    _grouped = False

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        dated = next((column for column in presentation.columns if column.kind == "date"), None)
        mentioned = [column for column in presentation.columns if column is not dated] or presentation.columns
        openings = _openings(dated, len(presentation.rows), rng)
        wordings = [_wording(presentation.noun.one, mentioned, words) for words in rng.sample(_SENTENCES, 2)]
        events = list(zip(*[column.shown for column in mentioned], strict=True))
        chosen = rng.choices(wordings, k=len(events))
        sentences = [_sentence(*parts) for parts in zip(openings, chosen, events, strict=True)]
        text = rng.choice([" ", "\n"]).join(sentences)
        parts = [f"{presentation.title}."] if not events or rng.random() < 0.5 else []
        parts += [text] if events else [f"No {presentation.noun.many} with {_enumerate(_names(presentation))}."]
        parts += [" ".join([f"{sentence}." for sentence in presentation.analysis])] if presentation.analysis else []
        return "\n\n".join(parts)


def _openings(dated: Column | None, n_events: int, rng: random.Random) -> list[str]:
    """Return how each sentence begins: with the date, or a word such as "then"."""
    after = [f"{word.capitalize()}, " for word in rng.choices(_CONNECTIVES, k=n_events)]
    after[:1] = ["First, "] * min(n_events, 1)
    if dated is None:
        return after
    on = rng.choice(["On {}, ", "{}: ", "Date {}: "])
    opening = cache(lambda date: on.format(printable(date)))
    return [opening(date) if date else word for date, word in zip(dated.shown, after, strict=True)]


def _wording(noun: str, columns: Sequence[Column], words: tuple[str, str]) -> Wording:
    introduction, before_value = words
    names = [printable(column.name) for column in columns]
    details = [_detail(before_value.format(name=name, a_name=_with_article(name))) for name in names]
    return introduction.format(a_noun=_with_article(noun)), details


def _detail(before: str) -> Callable[[str], str]:
    return cache(lambda value: before + printable(value) if value else "")


def _sentence(opening: str, wording: Wording, event: Sequence[str]) -> str:
    introduction, details = wording
    parts = [part for detail, value in zip(details, event, strict=True) if (part := detail(value))]
    return f"{opening}{introduction}{_enumerate(parts) or 'no details'}."


def _enumerate(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def _names(presentation: Presentation) -> list[str]:
    return [printable(name) for name in presentation.names]


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
