# One place for the commands that developers, continuous integration and newcomers run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint audit types docs dist try-wheel check clean

demo: $(INSTALLED)  ## install, then run the main job
	$(BIN)/python -m skllm4es.demo

test: $(INSTALLED)  ## install, then run every test, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

audit: $(INSTALLED)  ## insecure code of ours, and known vulnerabilities of what is installed
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml skllm4es
	$(BIN)/python .ci/audit.py

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(INSTALLED)  ## run the tutorials and build docs/_build/html; needs no network
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

dist: $(INSTALLED)  ## build wheel and sdist
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

try-wheel: dist  ## install the wheel into an empty environment, and run the demo there
	$(PYTHON) -m venv --clear build/venv
	build/venv/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	cd build && SKLLM4ES_DATA=none venv/bin/skllm4es-demo --users 60 --folds 2

check: lint audit types test docs try-wheel

$(INSTALLED): pyproject.toml constraints.txt requirements-tpp.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps --requirement requirements-tpp.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst
