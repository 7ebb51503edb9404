"""Every public object documents its parameters and returns, and has an example."""

import importlib
import inspect

import pytest
from numpydoc.validate import validate

PACKAGES = [
    "skllm4es",
    "skllm4es.baselines",
    "skllm4es.datasets",
    "skllm4es.formats",
    "skllm4es.models",
    "skllm4es.plotting",
    "skllm4es.rewriters",
    "skllm4es.serialize",
    "skllm4es.vocabularies",
]
OBJECTS = [f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__]

# Protocols have no parameters to document.
PROTOCOLS = {"skllm4es.rewriters.Rewriter", "skllm4es.rewriters.StreamingRewriter"}

# numpydoc's checks that parameters and returns are described and match the signature, and that summaries are one line.
CHECKS = {"PR01", "PR02", "PR03", "PR07", "PR10", "RT03", "YD01", "SS01", "SS06", "GL01"}


def _documented(name):
    """Return the names of an object and, for a class, of its own public methods."""
    public = _load(name)
    if not inspect.isclass(public):
        return [name]
    own = [method for method, value in vars(public).items() if not method.startswith("_") and inspect.isfunction(value)]
    return [name, *(f"{name}.{method}" for method in own)]


def _load(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


CALLABLES = [name for name in OBJECTS if callable(_load(name))]


@pytest.mark.parametrize("name", CALLABLES)
def test_parameters_and_returns_are_documented(name):
    problems = [
        (function, code, message)
        for function in _documented(name)
        for code, message in validate(function)["errors"]
        if code in CHECKS and function not in PROTOCOLS
    ]
    assert not problems


@pytest.mark.parametrize("name", CALLABLES)
def test_every_object_has_an_example(name):
    assert ">>>" in _load(name).__doc__
