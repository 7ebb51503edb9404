"""Collect the errors and warnings of the package from its source code.

The docs list them on a page of their own, so nobody has to edit a page when a message changes. Where the code fills
something in, the collected text has `…`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2] / "skllm4es"
SHARED = "shared"
GAP = "…"


class Message(NamedTuple):
    """The kind of a message, such as ValueError or Warning, and its text."""

    kind: str
    text: str


def find_messages(package: Path = PACKAGE) -> dict[str, list[Message]]:
    """Return the messages of each subpackage, sorted by text; those of private modules come under "shared"."""
    by_subpackage: dict[str, set[Message]] = {}
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).parts[0].removesuffix(".py")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        by_subpackage.setdefault(SHARED if name.startswith("_") else name, set()).update(_messages_of(tree))
    return {name: sorted(found, key=lambda m: m.text) for name, found in sorted(by_subpackage.items()) if found}


def _messages_of(tree: ast.Module) -> Iterator[Message]:
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        for message in _messages_of_call(node, constants) if isinstance(node, ast.Call) else ():
            text = re.sub(f"{GAP}{GAP}+", GAP, message.text.strip())
            if len(re.findall(r"\w{2,}", text)) > 1:
                yield Message(message.kind, text)


def _messages_of_call(call: ast.Call, constants: dict[str, ast.expr]) -> Iterator[Message]:
    name = getattr(call.func, "id", getattr(call.func, "attr", ""))
    texts = [_text(argument, constants) for argument in call.args]
    if name.endswith("Error") and not name.startswith("_"):
        yield from (Message(name, text) for text in texts)
    elif name == "warn":
        yield Message("Warning", texts[0])
    elif name == "raise_if":  # Problems, what they concern, how the message ends.
        yield Message("ValueError", f"{texts[1]}: {GAP}. {' '.join(texts[2:])}")
    elif name == "append" and getattr(getattr(call.func, "value", None), "id", "") == "problems":
        yield Message("ValueError", texts[0])


def _text(node: ast.AST, constants: dict[str, ast.expr]) -> str:
    """Return what an expression evaluates to, with a gap for each part that only a run can tell."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(_text(value, constants) for value in values)
        case ast.FormattedValue(value=value):
            return _text(value, constants)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _text(left, constants) + _text(right, constants)
        case ast.Name(id=name) if name in constants:
            return _text(constants[name], {})
    return GAP
