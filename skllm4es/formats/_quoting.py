"""How the formats keep hostile values on one line: anything unprintable turns a value into a JSON string.

Every format but JSON and YAML shows a value as `quote` gives it, inside the escapes of its own markup, and
reads it back by `unquote`. Ordinary values pass through unchanged. One rule for all, because no markup has an
escape for every character: XML forbids control characters outright, SQL ends at a zero byte, a table ends its
row at a line break and loses the spaces around a cell.
"""

from __future__ import annotations

import json
import re

# The line breaks, controls, surrogates and non-characters that some parser rejects, changes or breaks a line
# at.
_UNPRINTABLE = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff"
_needs_quotes = re.compile(f'[{_UNPRINTABLE}]|^[ "]| $').search
_unprintable = re.compile(f"[{_UNPRINTABLE}]")


def quote(value: str) -> str:
    r"""Show a value on one line of printable characters without spaces around it.

    Parameters
    ----------
    value : str
        Any string.

    Returns
    -------
    str
        The value itself where it is harmless, else the JSON string of it.

    Examples
    --------
    >>> from skllm4es.formats._quoting import quote
    >>> print(quote("Joe's Café"), quote("two\nlines"))
    Joe's Café "two\nlines"
    """
    return json_string(value) if _needs_quotes(value) else value


def unquote(text: str) -> str:
    """Undo `quote`.

    Parameters
    ----------
    text : str
        What `quote` gave.

    Returns
    -------
    str
        The value.
    """
    return json.loads(text) if text.startswith('"') else text


def json_string(value: str) -> str:
    """Write a JSON string that is a YAML string too.

    Parameters
    ----------
    value : str
        Any string.

    Returns
    -------
    str
        The string in double quotes; letters of all scripts stay as they are, what is unprintable is escaped.
    """
    return _unprintable.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
