"""Hostile values on one line: a value with anything unprintable is shown as a JSON string.

Every format except JSON and YAML shows a value as `printable` returns it, inside the escapes of its own markup.
Ordinary values stay as they are. One rule serves all formats, because no markup has an escape for every character: XML
forbids control characters, SQL ends at a zero byte, and a table ends its row at a line break and loses the spaces
around a cell.
"""

from __future__ import annotations

import json
import re

# Line breaks, control characters, surrogates and non-characters that some parser rejects, changes or breaks a line at.
_UNPRINTABLE = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff"
_needs_quotes = re.compile(f'[{_UNPRINTABLE}]|^[ "]| $').search
_unprintable = re.compile(f"[{_UNPRINTABLE}]")


def printable(value: str) -> str:
    r"""Return a harmless value itself, and otherwise its JSON string: one line of printable characters.

    Examples
    --------
    >>> from skllm4es.formats._printable import printable
    >>> print(printable("Joe's Café"), printable("two\nlines"))
    Joe's Café "two\nlines"
    """
    return json_string(value) if _needs_quotes(value) else value


def json_string(value: str) -> str:
    """Return a value as a JSON string that is a YAML string, too; letters of all scripts stay as they are."""
    return _unprintable.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
