"""YAML: the same structures as JSON, in block style with one-line mappings and lists where they fit."""

from __future__ import annotations

import datetime as dt
import random
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from skllm4es.formats._base import Format
from skllm4es.formats._documents import Document, build_document, flow, is_flat
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import json_string

# What every YAML parser reads as the same value without quotes: words, numbers and dates, except the words that some
# version of YAML reads as a boolean or null, and dates that the calendar lacks.
_PLAIN = re.compile(
    r"[A-Za-z][A-Za-z0-9_./()-]*(?: [A-Za-z0-9_./()-]+)*"
    r"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
    r"|(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
)
_NOT_STRINGS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

# YAML allows 1,024 characters before the colon of a key, and an escaped character takes up to six.
_LONGEST_KEY = 150


class YAMLFormat(Format):
    """YAML texts; strings that YAML could read as something else are in double quotes."""

    name = "yaml"
    _form = re.compile(r"\A(?![<{\[])(?s:.*?)^[ \t]*(?:-\s|\S.*?:(?:\s|\Z))", re.MULTILINE)
    # As in JSON: amounts stay numbers.
    _restyled = ("date",)

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        keys_fit = all(len(name) <= _LONGEST_KEY for name in presentation.names)
        document = build_document(presentation, rng, names_as_keys=keys_fit)
        text = _block(document, cache(_scalar), rng.random() < 0.4)
        comment = f"# {presentation.title}\n" if isinstance(document, list) else ""
        return rng.choice(["", "---\n", comment]) + text.strip("\n ")


def _scalar(value: str) -> str:
    found = _PLAIN.fullmatch(value)
    plain = found and value.lower() not in _NOT_STRINGS and (found["date"] is None or _is_date(value))
    return value if plain else json_string(value)


def _is_date(value: str) -> bool:
    try:
        dt.date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _block(document: Document, scalar: Callable[[str], str], flat_on_one_line: bool) -> str:
    def write(node: Any, margin: str) -> str:
        """Write what follows a colon or a dash: a scalar on the same line, or further lines."""
        if isinstance(node, str):
            return " " + scalar(node)
        if not node or (flat_on_one_line and is_flat(node)):
            return " " + flow(node, scalar, scalar)
        if isinstance(node, dict):
            return "".join([f"{margin}{scalar(key)}:{write(item, margin + '  ')}" for key, item in node.items()])
        return "".join([f"{margin}-{_after_dash(write(item, margin + '  '))}" for item in node])

    return write(document, "\n")


def _after_dash(text: str) -> str:
    """Begin a nested mapping or list on the line of its dash."""
    return " " + text.lstrip("\n ")
