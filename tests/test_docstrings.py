"""Every public object documents its parameters, what it returns and how it is used."""

import importlib
import inspect

import pytest
from numpydoc.validate import validate

PACKAGES = [
    "skllm4es",
    "skllm4es.baselines",
    "skllm4es.datasets",
    "skllm4es.formats",
    "skllm4es.plotting",
    "skllm4es.rewriters",
    "skllm4es.serialize",
    "skllm4es.vocabularies",
]
OBJECTS = [f"{package}.{name}" for package in PACKAGES for name in importlib.import_module(package).__all__]

# A protocol has no parameters.
PROTOCOLS = {"skllm4es.rewriters.Rewriter", "skllm4es.rewriters.StreamingRewriter"}

# Of numpydoc's checks: parameters and docstring agree and are described, returns are described, summary is one line.
CHECKS = {"PR01", "PR02", "PR03", "PR07", "PR10", "RT03", "YD01", "SS01", "SS06", "GL01"}


def _public_functions(name):
    thing = _load(name)
    if not inspect.isclass(thing):
        return [name]
    own = [method for method in vars(thing) if not method.startswith("_") and inspect.isfunction(vars(thing)[method])]
    return [name, *(f"{name}.{method}" for method in own)]


def _load(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", [n for n in OBJECTS if callable(_load(n))])
def test_parameters_and_returns_are_documented(name):
    problems = [
        (function, code, message)
        for function in _public_functions(name)
        for code, message in validate(function)["errors"]
        if code in CHECKS and function not in PROTOCOLS
    ]
    assert not problems


@pytest.mark.parametrize("name", [n for n in OBJECTS if callable(_load(n))])
def test_there_is_an_example(name):
    assert ">>>" in _load(name).__doc__
