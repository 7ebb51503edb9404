"""Examples for small models: other events of the same text, written by a template, and a look at what came of it."""

from __future__ import annotations

import html
import random

from skllm4es.formats import FORMATS, Variation
from skllm4es.rewriters._splitting import read_events

#: Increased when small models are shown other examples, or asked in another way.
EXAMPLES_VERSION = 1
#: A small model copies names and values best as they are.
_PLAIN = Variation(names=False, values=False, analysis=False)


def render_example(part: str, format_name: str, layout: int) -> str:
    """Write a part of a text; the same `layout` gives all parts the same one."""
    return FORMATS[format_name].render(read_events(part), random.Random(layout), _PLAIN)


def choose_others(number: int, n_parts: int, n_chosen: int, seed: int) -> list[int]:
    """Choose some parts to show with one: the same for all of a half of a text, from its other half.

    What questions have in common is read once.
    """
    half = n_parts // 2
    others = range(half, n_parts) if number < half else range(half)
    return random.Random(seed).sample(others, min(n_chosen, len(others)))


def share_of_values(part: str, answer: str) -> float:
    """Return the share of the values of a part that an answer contains as they are, apart from escapes."""
    values = [value for row in read_events(part).rows for value in row if value]
    words = _fold(answer)
    return sum(_fold(value) in words for value in values) / max(1, len(values)) if answer else -1.0


def _fold(text: str) -> str:
    return html.unescape(text).replace("\\", "").replace("''", "'").casefold()
