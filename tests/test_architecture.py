"""The drawing in CONTRIBUTING.md is what the code imports."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "skllm4es"

# The arrows of the drawing that point downwards: from each part to those that it uses.
USES = {
    "_serializer": {"formats"},
    "_enricher": {"rewriters", "formats"},
    "_embedder": {"lm"},
    "baselines": {"lm", "formats"},
    "rewriters": {"lm", "formats"},
    "lm": {"formats"},
    "formats": set(),
    "datasets": {"formats", "vocabularies"},  # nest_events writes as formats do
    "vocabularies": set(),
    "plotting": set(),
}


def _imports(file):
    """Give the parts of the package that a file imports, those that only the files of one part share left out."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skllm4es."):
            yield node.module.split(".")[1]


def _files(part):
    return [PACKAGE / f"{part}.py"] if part.startswith("_") else sorted((PACKAGE / part).rglob("*.py"))


def _used_by(part):
    """Follow the imports of a part through the modules that the package's top level has for all."""
    seen, todo = set(), list(_files(part))
    while todo:
        for name in _imports(todo.pop()):
            if name not in seen:
                seen.add(name)
                todo += _files(name) if name not in USES else []
    return (seen & set(USES)) - {part}


def test_parts_use_those_that_the_drawing_shows():
    assert {part: _used_by(part) & _reachable(part) for part in USES} == {part: _used_by(part) for part in USES}


def test_every_arrow_of_the_drawing_is_used():
    assert {part: USES[part] - _used_by(part) for part in USES} == {part: set() for part in USES}


def test_the_drawing_names_every_part():
    drawing = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    shown = {"_serializer": "EventSerializer", "_enricher": "TextEnricher", "_embedder": "LLMEmbedder"}
    assert [part for part in USES if shown.get(part, part) not in drawing] == []
    parts = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert parts <= set(USES)


def _reachable(part):
    below = set(USES[part])
    for each in USES[part]:
        below |= _reachable(each)
    return below
