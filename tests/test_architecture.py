"""The house is as CONTRIBUTING.md draws it: imports point one way, and private names of others stay in one place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skllm4es"

#: The arrows of the drawing: from each room to those that it uses directly.
USES = {
    "events": set(),
    "serialize": {"events"},
    "formats": {"serialize"},
    "rewriters": {"formats", "serialize", "lm"},
    "enrich": {"rewriters", "formats", "serialize"},
    "lm": {"serialize"},
    "embed": {"lm", "serialize"},
    "baselines": {"events", "serialize", "lm"},
    "vocabularies": set(),
    "datasets": {"events", "vocabularies"},
    "plotting": set(),
}

#: Libraries whose private names only `_compat` may use.
OTHERS = ("sklearn", "transformers", "accelerate", "peft", "tokenizers")


def imports(file):
    """Yield the modules and names that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.module or "", alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""


def used_by(room):
    """Return the rooms that the files of a room import."""
    modules = {module for file in (PACKAGE / room).rglob("*.py") for module, _ in imports(file)}
    return {module.split(".")[1] for module in modules if module.startswith("skllm4es.")} & set(USES) - {room}


def test_rooms_use_what_the_drawing_shows_and_nothing_else():
    assert {room: used_by(room) for room in USES} == USES


def test_no_room_depends_on_itself_through_others():
    def below(room):
        return USES[room] | {deeper for lower in USES[room] for deeper in below(lower)}

    assert [room for room in USES if room in below(room)] == []


def test_what_several_rooms_share_depends_on_no_room():
    # `_pipeline` and `_drift` put the rooms together, and none of them uses these.
    together = ("__init__.py", "_pipeline.py", "_drift.py")
    shared = [file for file in PACKAGE.glob("_*.py") if file.name not in together]
    modules = {module for file in shared for module, _ in imports(file)}
    assert [module for module in modules if module.startswith("skllm4es.") and module.split(".")[1] in USES] == []


def test_no_room_imports_the_package_as_a_whole():
    # The package imports all rooms, so that such an import would go round in a circle.
    files = [file for room in USES for file in (PACKAGE / room).rglob("*.py")]
    assert [file.name for file in files if "skllm4es" in {module for module, _ in imports(file)}] == []


def test_the_drawing_names_every_room():
    drawing = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    assert [room for room in USES if room not in drawing] == []
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(USES)


def test_the_language_model_knows_nothing_of_scikit_learn():
    found = [
        file.name for file in (PACKAGE / "lm").glob("*.py") if any(m.startswith("sklearn") for m, _ in imports(file))
    ]
    assert found == []


def test_private_names_of_other_libraries_are_used_in_one_place():
    found = [
        (str(file.relative_to(PACKAGE)), module, name)
        for file in PACKAGE.rglob("*.py")
        if file.name != "_compat.py"
        for module, name in imports(file)
        if module.split(".")[0] in OTHERS
        and any(part.startswith("_") and part != "__version__" for part in (*module.split("."), name))
    ]
    assert found == []


@pytest.mark.slow
def test_reading_a_model_does_not_import_the_trainer():
    code = "import sys; import skllm4es.lm.embedding, skllm4es.lm.language_model; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "skllm4es.lm.language_model" in loaded
    assert not {"skllm4es.lm.finetuning", "transformers.trainer"} & set(loaded)
