"""Parsers of the formats in which events are rewritten: whatever the layout, `read` returns the events of a text.

`restore` leads from the names and values that a text shows back to those of the original.
"""

import csv
import json
import re
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree

import yaml

from skllm4es.formats import canonical_value
from skllm4es.formats._names import NUMBER, spellings
from skllm4es.serialize import EventTable


def read(name, text):
    """Read the events of a text in the format `name`; raise a ValueError if the text is not in the format.

    The events come in their order, under the names and with the values that the text shows.
    """
    try:
        table = _in_order(*READERS[name](text))
    except Exception as error:  # Text in another form can fail anywhere.
        raise _unreadable(name, text, f"{type(error).__name__}: {error}") from error
    if not table.header:
        raise _unreadable(name, text, "no fields are found in it")
    if any(len(row) != len(table.header) for row in table.rows):
        raise _unreadable(name, text, "its events differ in their fields")
    if not all(isinstance(value, str) for row in [table.header, *table.rows] for value in row):
        raise _unreadable(name, text, "some values are neither texts nor numbers")
    return table


def restore(table, header):
    """Return a table that was read from a text under the names of `header`, in their order, with canonical values."""
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


def _unreadable(name, text, why):
    return ValueError(f"The text {text[:60]!r} was not written in the format {name!r}: {why}.")


def _in_order(names, rows):
    """Sort the events by their numbers, if they have any, and drop the numbers."""
    if NUMBER not in names:
        return EventTable(list(names), [list(row) for row in rows])
    position = list(names).index(NUMBER)
    ordered = sorted(rows, key=lambda row: int(row[position]))
    return EventTable(_without(names, position), [_without(row, position) for row in ordered])


def _without(row, position):
    return [*row[:position], *row[position + 1 :]]


def _original(text):
    """Undo `printable`."""
    return json.loads(text) if text.startswith('"') else text


# JSON and YAML


def _read_json(text):
    # A brace, a line break and a brace: one object per line. In a larger structure a comma follows the brace, and no
    # string holds a line break.
    lines = text.split("\n") if "}\n{" in text else [text]
    documents = [json.loads(line, parse_int=str, parse_float=str) for line in lines]
    return _read_document(documents if len(documents) > 1 else documents[0])


def _read_yaml(text):
    return _read_document(yaml.load(text, yaml.BaseLoader))  # BaseLoader returns only strings.


def _read_document(document):
    body = document
    if isinstance(document, dict):
        body = next(value for key, value in document.items() if key not in ("title", "analysis"))
    if isinstance(body, list):
        *_, last = body[0].values()
        if isinstance(last, list):
            *_, many = body[0]
            body = [record for group in body for record in group[many]]
        return list(body[0]), [list(record.values()) for record in body]
    # Two columns of values may have the names of a table's parts, too.
    if list(body) == ["columns", "rows"] and all(isinstance(row, list) for row in body["rows"]):
        return body["columns"], body["rows"]
    return list(body), list(zip(*body.values(), strict=True))


# Markdown

_CHARACTER = r"(?:[^\\|*\n]|\\.)"
_CELL = re.compile(rf"\|({_CHARACTER}*+)(?=\|)")
_FIELD = re.compile(rf"\*\*({_CHARACTER}*+)\*\*: ({_CHARACTER}*?)(?=; \*\*|\n|\Z)")


def _read_markdown(text):
    blocks = [block for block in text.split("\n\n") if not block.startswith(("#", ">"))]
    read_block = _read_markdown_table if blocks[0].startswith("|") else _read_markdown_lists
    tables = [read_block(block) for block in blocks]
    return tables[0][0], [row for _, rows in tables for row in rows]


def _unescape(text):
    return _original(re.sub(r"\\(.)", r"\1", text))


def _read_markdown_table(block):
    names, _, *rows = [[_unescape(cell.strip(" ")) for cell in _CELL.findall(line)] for line in block.split("\n")]
    return names, rows


def _read_markdown_lists(block):
    events = [_FIELD.findall(event) for event in re.split(r"\n(?=\S)", block)]
    names = [_unescape(name) for name, _ in events[0]]
    return names, [[_unescape(value) for _, value in event] for event in events]


# HTML


class _EventReader(HTMLParser):
    """Collects the names and the values of all events of a page."""

    # The tags of events, names and values in all layouts; nothing else in a text has them.
    event_tags = {"tr", "dl", "li"}
    name_tags = {"th", "dt", "strong"}
    value_tags = {"td", "dd", "span"}

    def __init__(self):
        super().__init__()
        self.names, self.rows, self._text = [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag in self.event_tags:
            self.rows.append([])
        self._text = ""

    def handle_data(self, data):
        self._text += data

    def handle_endtag(self, tag):
        if tag in self.name_tags and (name := _original(self._text)) not in self.names:
            self.names.append(name)
        if tag in self.value_tags:
            self.rows[-1].append(_original(self._text))
        if tag in self.event_tags and not self.rows[-1]:
            self.rows.pop()


def _read_html(text):
    reader = _EventReader()
    reader.feed(text)
    reader.close()
    return reader.names, reader.rows


# XML


def _read_xml(text):
    root = ElementTree.fromstring(text.encode())  # Encoded, because a text may declare its encoding.
    events = [_read_event(event) for event in _find_events(root)]
    if not events:
        return [_original(field.text or "") for field in root.iterfind("fields/field")], []
    return list(events[0]), [list(event.values()) for event in events]


def _find_events(root):
    for child in root:
        if child.tag == "group":
            yield from child
        elif child.tag not in {"title", "fields", "analysis"}:
            yield child


def _read_event(event):
    fields = event.attrib or {child.get("name", child.tag): child.text or "" for child in event}
    return {_original(name): _original(value) for name, value in fields.items()}


# Tables


def _read_table(text):
    lines = text.split("\n\n")[1].split("\n")
    if lines[0].startswith("+-") and lines[1].startswith("| "):
        lines = lines[1:-1]
    aligned = len(lines) > 1 and re.fullmatch(r"[ +-]*-[ +-]*", lines[1])
    names, *rows = _read_aligned(lines) if aligned else _read_separated(lines)
    return [_original(name) for name in names], [[_original(value) for value in row] for row in rows]


def _read_aligned(lines):
    spans = [run.span() for run in re.finditer("-+", lines[1])]
    return [[line[start:end].strip(" ") for start, end in spans] for line in [lines[0], *lines[2:]]]


def _read_separated(lines):
    # All names are in quotes, so the delimiter is what follows the first.
    first_name = re.match(r'"(?:[^"]|"")*+"', lines[0])
    end = first_name.end() if first_name else 0
    return list(csv.reader(lines, delimiter=lines[0][end : end + 1] or ","))


# SQL

_TOKEN = r"""(?:'(?:[^']|'')*+'|"(?:[^"]|"")*+"|[^\s,()'"]+)"""
# No value holds a line break, so the beginning of a line is never part of one.
_TUPLE = rf"\(({_TOKEN}(?:, {_TOKEN})*+)\)"
_INSERT = re.compile(rf"^INSERT INTO \w+ {_TUPLE} VALUES", re.MULTILINE)
_COLUMN = re.compile(rf"^  ({_TOKEN}) [A-Z]+,?$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)


def _read_sql(text):
    script = _COMMENT.sub("", text)
    insert = _INSERT.search(script)
    if insert is None:
        return [_sql_value(token) for token in _COLUMN.findall(script)], []
    rows = re.findall(_TUPLE, _INSERT.sub("", script[insert.start() :]))
    names, *rows = [[_sql_value(token) for token in re.findall(_TOKEN, row)] for row in [insert[1], *rows]]
    return names, rows


def _sql_value(token):
    mark = token[0]
    if mark in "'\"":
        return _original(token[1:-1].replace(mark * 2, mark))
    return "" if token == "NULL" else token


#: What reads the names and rows of a text, by format. The other formats are prose, which no parser can read.
READERS = {
    "json": _read_json,
    "markdown": _read_markdown,
    "html": _read_html,
    "xml": _read_xml,
    "yaml": _read_yaml,
    "table": _read_table,
    "sql": _read_sql,
}
#: The formats from which the events can be read back, in the order of `FORMATS`.
LOSSLESS = list(READERS)
