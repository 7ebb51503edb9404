"""What importing the package costs, and what it offers."""

import subprocess
import sys

import pytest

import skllm4es


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_loads_neither_torch_nor_transformers():
    loaded = _modules_after("import skllm4es")
    assert not loaded & {"torch", "transformers", "peft", "accelerate", "polars", "openai"}


def test_constructing_the_steps_loads_neither_torch_nor_transformers():
    loaded = _modules_after("from skllm4es import *; EventSerializer(); TextEnricher(); LLMEmbedder()")
    assert not loaded & {"torch", "transformers"}


def test_displays_load_matplotlib_when_they_draw():
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
