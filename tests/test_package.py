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


#: What one process does, step by step.
STEPS = {
    "foundations": "import pandas, pyarrow, sklearn",
    "import": "import skllm4es",
    "construct": "from skllm4es import *; EventSerializer(); TextEnricher(); LLMEmbedder()",
    "display": "from skllm4es.plotting import *; TokenLengthDisplay(lengths=[1])",
    "baselines": "from skllm4es.baselines import *; CoLESEmbedder(); NPPREmbedder()",
    "count": "from skllm4es.datasets import make_transactions; X, y = make_transactions(9, random_state=0); "
    "EventAggregator().fit_transform(X); BagOfEvents().fit(X)",
}


@pytest.fixture(scope="module")
def loaded():
    """Return the modules that are loaded after each step."""
    code = "import sys\n" + "".join(f"{step}\nprint(*sys.modules)\n" for step in STEPS.values())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(STEPS, map(set, map(str.split, done.stdout.splitlines())), strict=True))


def test_import_loads_neither_torch_nor_transformers(loaded):
    assert not loaded["import"] & {"torch", "transformers", "peft", "accelerate", "lightgbm", "polars", "openai"}


def test_import_adds_little_to_pandas_pyarrow_and_scikit_learn(loaded):
    """It takes 0.1 s of their 1.1 s; the parts of scikit-learn that learn would take another 0.3 s."""
    packages, before = ({name.partition(".")[0] for name in loaded[step]} for step in ("import", "foundations"))
    # sklearn.callback, of scikit-learn 1.9, loads rich.
    assert packages - before - sys.stdlib_module_names <= {"skllm4es", "rich", "tqdm"}
    learning = [
        "preprocessing",
        "decomposition",
        "linear_model",
        "ensemble",
        "metrics",
        "pipeline",
        "feature_extraction",
    ]
    assert not loaded["import"] & {f"sklearn.{part}" for part in learning}


def test_constructing_the_steps_loads_neither_torch_nor_transformers(loaded):
    assert not loaded["construct"] & {"torch", "transformers"}


def test_displays_load_matplotlib_only_to_plot(loaded):
    assert not loaded["display"] & {"matplotlib", "umap", "torch"}


def test_only_fitting_a_neural_baseline_loads_torch(loaded):
    assert "torch" not in loaded["baselines"] | loaded["count"]


@pytest.mark.parametrize("name", skllm4es.__all__)
def test_every_public_name_exists_and_is_documented(name):
    assert getattr(skllm4es, name).__doc__


def test_the_lowest_versions_match_the_declared_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = ("polars", "openai", "gguf", "excel", "plot", "umap", "engines")
    extras = [project["optional-dependencies"][extra] for extra in names]
    declared = [line for line in sum(extras, project["dependencies"]) if not line.startswith("skllm4es")]
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition(";")[0] for line in lines if "==" in line and '>= "3.13"' not in line]
    assert sorted(map(_lowest, pinned)) == sorted(map(_lowest, declared))


def _lowest(requirement):
    """Return the name of a requirement, without extras, and the version after == or >=."""
    name, version = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?[=>]=([\d.]+)\s*", requirement).groups()
    return name, Version(version)
