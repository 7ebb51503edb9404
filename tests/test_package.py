"""What importing the package loads, and which names it has."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

import skllm4es

ROOT = Path(__file__).parents[1]


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_loads_neither_torch_nor_transformers():
    loaded = _modules_after("import skllm4es")
    assert not loaded & {"torch", "transformers", "peft", "accelerate", "polars", "openai"}


def test_constructing_the_steps_loads_neither_torch_nor_transformers():
    loaded = _modules_after("from skllm4es import *; EventSerializer(); TextEnricher(); LLMEmbedder()")
    assert not loaded & {"torch", "transformers"}


def test_displays_load_matplotlib_only_to_plot():
    loaded = _modules_after("from skllm4es.plotting import *; TokenLengthDisplay(lengths=[1])")
    assert not loaded & {"matplotlib", "umap", "torch"}


def test_only_fitting_a_neural_baseline_loads_torch():
    assert "torch" not in _modules_after("from skllm4es.baselines import *; CoLESEmbedder(); NPPREmbedder()")
    counting = "from skllm4es.baselines import *; from skllm4es.datasets import make_transactions; "
    counting += "X, y = make_transactions(9, random_state=0); EventAggregator().fit_transform(X); BagOfEvents().fit(X)"
    assert "torch" not in _modules_after(counting)


@pytest.mark.parametrize("name", skllm4es.__all__)
def test_every_public_name_exists_and_is_documented(name):
    assert getattr(skllm4es, name).__doc__


def test_the_lowest_versions_match_the_declared_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # The extra gguf needs a newer transformers than the package does.
    extras = [
        project["optional-dependencies"][extra] for extra in ("polars", "openai", "excel", "plot", "umap", "engines")
    ]
    declared = [line for line in sum(extras, project["dependencies"]) if not line.startswith("skllm4es")]
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition(";")[0] for line in lines if "==" in line and '>= "3.13"' not in line]
    assert sorted(map(_lowest, pinned)) == sorted(map(_lowest, declared))


def _lowest(requirement):
    """Return the name of a requirement, without extras, and the version after == or >=."""
    name, version = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?[=>]=([\d.]+)\s*", requirement).groups()
    return name, Version(version)
