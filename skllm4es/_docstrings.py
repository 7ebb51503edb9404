"""Docstrings whose common parts are written once."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T", bound=Callable[..., Any])


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


def documented(**paragraphs: str) -> Callable[[_T], _T]:
    """Decorate a class or function to `fill` its docstring."""

    def decorate(documented: _T) -> _T:
        documented.__doc__ = fill(documented.__doc__, paragraphs)
        return documented

    return decorate
