"""Docstrings whose common parts are written once."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping


def fill(document: str | None, paragraphs: Mapping[str, str]) -> str:
    r"""Replace each line ``{name}`` of a docstring by the paragraph of that name, with the indentation of the line.

    Examples
    --------
    >>> from skllm4es._docstrings import fill
    >>> print(fill("Draw.\n\n    {ax}", {"ax": "ax : Axes\n    Where to draw."}))
    Draw.
    <BLANKLINE>
    ax : Axes
        Where to draw.
    """

    def paragraph(line: re.Match[str]) -> str:
        return textwrap.indent(paragraphs[line[2]].rstrip(), line[1]) if line[2] in paragraphs else line[0]

    return re.sub(r"^( *)\{(\w+)\}$", paragraph, inspect.cleandoc(document or ""), flags=re.MULTILINE)
