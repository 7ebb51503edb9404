"""A Sphinx extension that keeps figures such as 0.691 ± 0.118 on one line, in all tables and texts of all pages."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

#: Between two numbers, of which the first may be bold.
_PLUS_MINUS = re.compile(r"(?<=[\d*]) ± (?=\d)")


def keep_together(text: str) -> str:
    """Return the text with spaces around ± that do not break."""
    return _PLUS_MINUS.sub("\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", text)


def _on_page(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = keep_together(source[0])


def _on_included_file(app: Sphinx, path: Any, page: str, source: list[str]) -> None:
    source[0] = keep_together(source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Read pages and included files with figures that do not break."""
    app.connect("source-read", _on_page)
    app.connect("include-read", _on_included_file)
    return {"parallel_read_safe": True}
