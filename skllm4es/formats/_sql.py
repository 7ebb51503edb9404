"""SQL: a table of events filled by inserts, with comments."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache

from skllm4es.formats._base import Format
from skllm4es.formats._names import IDENTIFIERS
from skllm4es.formats._presentation import Presentation
from skllm4es.formats._printable import printable

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPES = {"date": "TIMESTAMP", "amount": "NUMERIC", "score": "NUMERIC"}
# Words that databases reserve and that may be the name of a field.
_RESERVED = re.compile(
    "all|and|as|by|case|check|column|current_date|date|default|desc|end|from|group|in|index|insert|interval"
    "|into|is|key|like|limit|not|null|offset|on|or|order|range|rank|rows?|select|set|table|time|timestamp|to"
    "|type|union|user|values?|when|where",
    re.IGNORECASE,
)


class SQLFormat(Format):
    """SQL scripts; a quote inside a value is doubled, as in every SQL database."""

    name = "sql"
    _form = re.compile(r"\b(?:INSERT\s+INTO|CREATE\s+TABLE)\b", re.IGNORECASE)
    # Databases read dates and numbers only in their original forms.
    _restyled = ()
    _styles = IDENTIFIERS
    _grouped = False

    def _write(self, presentation: Presentation, rng: random.Random) -> str:
        literal = cache(_literal)
        names = [_identifier(name) for name in presentation.names]
        rows = [f"({', '.join([literal(value) for value in row])})" for row in presentation.rows]
        table = rng.choice([presentation.noun.many, f"user_{presentation.noun.many}"])
        lines = [f"-- {presentation.title}"] if rng.random() < 0.5 else []
        if not rows or rng.random() < 0.3:
            lines += _create(table, names, presentation)
        if rows:
            lines += _insert(f"INSERT INTO {table} ({', '.join(names)}) VALUES", rows, rng)
        lines += [f"-- {sentence}" for sentence in presentation.analysis]
        return "\n".join(lines)


def _identifier(name: str) -> str:
    if _IDENTIFIER.fullmatch(name) and not _RESERVED.fullmatch(name):
        return name
    return '"' + printable(name).replace('"', '""') + '"'


def _literal(value: str) -> str:
    if not value:
        return "NULL"
    return value if _NUMBER.fullmatch(value) else "'" + printable(value).replace("'", "''") + "'"


def _create(table: str, names: Sequence[str], presentation: Presentation) -> list[str]:
    types = [_TYPES.get(column.kind, "TEXT") for column in presentation.columns]
    columns = [f"  {name} {kind}" for name, kind in zip(names, types, strict=True)]
    return [f"CREATE TABLE {table} (", *[f"{column}," for column in columns[:-1]], columns[-1], ");"]


def _insert(head: str, rows: Sequence[str], rng: random.Random) -> list[str]:
    if rng.random() < 0.3:
        return [f"{head} {row};" for row in rows]
    return [head, *[f"  {row}," for row in rows[:-1]], f"  {rows[-1]};"]
