"""What the documentation says is what the code does: names, parameters, messages, examples."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("guide/*.md"))
PACKAGES = ["", ".baselines", ".datasets", ".formats", ".plotting", ".rewriters", ".serialize", ".vocabularies"]
PUBLIC = {
    name: getattr(module, name)
    for module in (importlib.import_module(f"skllm4es{package}") for package in PACKAGES)
    for name in module.__all__
}
API = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")
FAQ = (ROOT / "docs" / "guide" / "faq.md").read_text(encoding="utf-8")

# What a message begins its remedy with.
REMEDIES = (
    "Set Pass Choose Raise Lower Name Check Make Give Write Build Convert Drop Wrap Select Replace Delete Scale Join "
    "Add Update Read Shorten Try Use Mend Fit Bound Copy See"
)
REMEDY = re.compile(rf"(?:^|[.;:] |\n\d\. )(?:{REMEDIES.replace(' ', '|')})\b")


def _code_blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def _as_text(node):
    """The text of a message, with … where the code fills something in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return (_as_text(node.left) or "…") + (_as_text(node.right) or "…")
    return ""


def _strings():
    """Every string of the package, and whether it is an argument of an error or a warning."""
    for file in sorted((ROOT / "skllm4es").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if called.endswith("Error") or called == "warn":
                yield from ((_as_text(argument), True) for argument in node.args)
            elif isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                yield _as_text(node), False


STRINGS = list(_strings())
MESSAGES = sorted({text for text, is_message in STRINGS if is_message and REMEDY.search(text)})
QUOTED = re.findall(r"^`([^`\n]+)`\n: ", FAQ, flags=re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_api_page_lists_every_public_name(package):
    module = importlib.import_module(f"skllm4es{package}")
    listed = API.split(f".. currentmodule:: {module.__name__}\n")[1:]
    listed = {name for part in listed for name in re.findall(r"^   (\w+)$", part.split(".. currentmodule::")[0], re.M)}
    assert listed == set(module.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_the_guide_run(page):
    text = "\n".join(block for block in _code_blocks(page) if ">>>" in block)
    test = doctest.DocTestParser().get_doctest(text, {}, page.stem, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert runner.run(test).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_parameters_in_the_guide_exist(page):
    text = page.read_text(encoding="utf-8")
    for call in re.findall(rf"\b(?:{'|'.join(PUBLIC)})\([^`\n]*\)", text):
        try:
            tree = ast.parse(call.replace("(...)", "()").replace(", ...", "").replace("...", "None"), mode="eval")
        except SyntaxError:
            continue  # Cut out of a longer line.
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in PUBLIC:
                known = inspect.signature(PUBLIC[node.func.id]).parameters
                assert {keyword.arg for keyword in node.keywords} <= set(known), call


@pytest.mark.parametrize("quoted", QUOTED)
def test_messages_in_the_faq_are_those_of_the_code(quoted):
    assert any(quoted in text for text, _ in STRINGS)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_with_a_remedy_is_in_the_faq(message):
    first = message.split("\n")[0]
    assert first in FAQ or any(quoted in message for quoted in QUOTED)


def test_the_guide_lists_all_its_pages():
    listed = (ROOT / "docs" / "guide" / "index.md").read_text(encoding="utf-8").split("```{toctree}")[1].split()
    assert {page.stem for page in PAGES} - {"index"} <= set(listed)


def test_tutorials_are_numbered_in_order():
    numbers = [int(path.stem.split("_")[1]) for path in sorted((ROOT / "examples").glob("plot_*.py"))]
    assert numbers == list(range(1, len(numbers) + 1))
