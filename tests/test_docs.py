"""The documentation matches the code: names, parameters, messages, examples."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import package_messages
import pytest
import unbroken_figures

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("guide/*.md"))
PACKAGES = ["", ".baselines", ".datasets", ".formats", ".plotting", ".rewriters", ".serialize", ".vocabularies"]
PUBLIC = {
    name: getattr(module, name)
    for module in (importlib.import_module(f"skllm4es{package}") for package in PACKAGES)
    for name in module.__all__
}
API = (ROOT / "docs" / "api.rst").read_text(encoding="utf-8")


#: As many characters of code as a page shows without a scroll bar; ruff checks it in tutorials and recipes.
CODE_WIDTH = 88


def _code_blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def _examples(page):
    return [block for block in _code_blocks(page) if ">>>" in block]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_api_page_lists_every_public_name(package):
    module = importlib.import_module(f"skllm4es{package}")
    listed = API.split(f".. currentmodule:: {module.__name__}\n")[1:]
    listed = {name for part in listed for name in re.findall(r"^   (\w+)$", part.split(".. currentmodule::")[0], re.M)}
    assert listed == set(module.__all__)


@pytest.mark.parametrize("page", [*filter(_examples, PAGES)], ids=lambda page: page.stem)
def test_examples_in_the_guide_run(page):
    text = "\n".join(_examples(page))
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
            continue  # Part of a longer line.
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in PUBLIC:
                known = inspect.signature(PUBLIC[node.func.id]).parameters
                assert {keyword.arg for keyword in node.keywords} <= set(known), call


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "index.md"], ids=lambda page: page.stem)
def test_code_in_the_guide_fits_on_the_page(page):
    blocks = re.findall(r"```(?:python|console|pycon|sql)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert [line for line in lines if len(line) > CODE_WIDTH] == []


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_examples_in_docstrings_fit_on_the_page(name):
    documented = [PUBLIC[name], *(vars(PUBLIC[name]).values() if inspect.isclass(PUBLIC[name]) else ())]
    docstrings = [inspect.getdoc(member) or "" for member in documented if callable(member)]
    lines = [line for docstring in docstrings for line in docstring.splitlines() if line.startswith((">>> ", "... "))]
    assert [line for line in lines if len(line) > CODE_WIDTH] == []


def test_figures_with_their_deviation_stay_on_one_line():
    text = unbroken_figures.keep_together("| **0.691** ± 0.118 | 7.70 ± 0.37 | mean ± standard deviation |")
    assert text.split("|")[1:4] == [" **0.691**\xa0±\xa00.118 ", " 7.70\xa0±\xa00.37 ", " mean ± standard deviation "]


def test_the_guide_lists_all_its_pages():
    listed = (ROOT / "docs" / "guide" / "index.md").read_text(encoding="utf-8").split("```{toctree}")[1].split()
    assert {page.stem for page in PAGES} - {"index"} <= set(listed)


def test_tutorials_are_numbered_in_order():
    numbers = [int(path.stem.split("_")[1]) for path in sorted((ROOT / "examples").glob("plot_*.py"))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_messages_are_collected_with_gaps_and_constants(tmp_path):
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "_trees.py").write_text(
        """
_REMEDY = "Pass another."

def check(value, tree, problems):
    if value < 0:
        raise ValueError(f"value={value!r} is negative. {_REMEDY}")
    warn("The tree of " + value + " is old.")
    problems.append(f"no leaf in {tree}")
    raise_if(problems, "The tree does not fit", "It has leaves.")
    raise _InternalError("not for users to see")
""",
        encoding="utf-8",
    )
    assert package_messages.find_messages(tmp_path) == {
        "events": [
            ("ValueError", "The tree does not fit: …. It has leaves."),
            ("Warning", "The tree of … is old."),
            ("ValueError", "no leaf in …"),
            ("ValueError", "value=… is negative. Pass another."),
        ]
    }


@pytest.mark.parametrize("name", ["datasets", "embed", "enrich", "events", "lm", "rewriters", "serialize", "shared"])
def test_the_messages_page_covers_each_step(name):
    assert package_messages.find_messages()[name]


def test_each_section_of_the_messages_page_has_a_title():
    pytest.importorskip("sphinx")
    import message_page

    assert set(package_messages.find_messages()) <= set(message_page.TITLES)
