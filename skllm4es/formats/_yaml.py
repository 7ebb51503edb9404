"""YAML: the same structures as JSON, in block style with one-line mappings and lists where they fit."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from skllm4es.formats._base import LosslessFormat
from skllm4es.formats._documents import Document, build_document, flow, is_flat, read_document
from skllm4es.formats._quoting import json_string
from skllm4es.formats._variation import Presentation

# What every YAML reader takes for the same string without quotes: words, numbers and dates, and of the words
# not those that some version of YAML takes for a truth value or for nothing. In a number or a date a reader
# may see more than a string, but never another value.
_PLAIN = re.compile(
    r"[A-Za-z][A-Za-z0-9_./()-]*(?: [A-Za-z0-9_./()-]+)*"
    r"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}"
)
_NOT_STRINGS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

# YAML allows 1,024 characters before the colon of a key; an escaped character takes up to six.
_LONGEST_KEY = 150


class YAMLFormat(LosslessFormat):
    """YAML texts; strings that YAML could take for something else stand in double quotes."""

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

    def _read(self, text: str) -> tuple[list[str], Sequence[Sequence[str]]]:
        # Only reading needs PyYAML, and only tests read.
        import yaml  # type: ignore[import-untyped]

        return read_document(yaml.load(text, yaml.BaseLoader))  # it makes strings alone  # nosec B506


def _scalar(value: str) -> str:
    plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_STRINGS
    return value if plain else json_string(value)


def _block(document: Document, scalar: Callable[[str], str], flat_on_one_line: bool) -> str:
    def write(node: Any, margin: str) -> str:
        """Give what follows a colon or a dash: a scalar behind it, or lines of their own."""
        if isinstance(node, str):
            return " " + scalar(node)
        if not node or (flat_on_one_line and is_flat(node)):
            return " " + flow(node, scalar, scalar)
        if isinstance(node, dict):
            return "".join([f"{margin}{scalar(key)}:{write(item, margin + '  ')}" for key, item in node.items()])
        return "".join([f"{margin}-{_behind_dash(write(item, margin + '  '))}" for item in node])

    return write(document, "\n")


def _behind_dash(text: str) -> str:
    """Let a nested mapping or list begin on the line of the dash that it belongs to."""
    return " " + text.lstrip("\n ")
