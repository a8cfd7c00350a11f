# perstep: `make help` explains every target.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Two threads stall each other on shared cores; measurements and tests use one.
export OMP_NUM_THREADS ?= 1
# mkdocs-material announces at every build that it ends in 2027; docs/decisions.md says what follows.
export NO_MKDOCS_2_WARNING ?= 1
# Test processes side by side: one a core. No test asserts a time, so they may share the machine.
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help env demo test lint types floors docs check-docs unit nightly kernels gate-self busy stale bench clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing perstep (core) into $(VENV)" >&2
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing perstep with everything its tests need into $(VENV)" >&2
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[hf,grammar,dev]'
	@touch $@ $(VENV)/.core

env: $(VENV)/.dev  ## create the development environment in .venv

demo: $(VENV)/.core  ## install the core and show what a decode step of the built-in model costs
	$(BIN)/perstep ledger -m mini --fast
	@echo "Open report.html in the run's folder, named above."
	@echo "Next: . $(VENV)/bin/activate && perstep --help"

test: $(VENV)/.dev lint types floors check-docs unit  ## run every check that CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/.dev
	$(BIN)/mypy

floors: $(VENV)/.dev
	$(BIN)/lint-imports

docs: $(VENV)/.dev  ## write generated blocks into the documentation and build it into site/
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict --quiet

check-docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py --check
	$(BIN)/mkdocs build --strict --quiet

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not nightly" -n $(WORKERS) --dist worksteal --durations=25

nightly: $(VENV)/.dev kernels  ## run the long matrices as well, and let Hypothesis search at random
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=25 --hypothesis-profile=random
	$(BIN)/python -P benchmarks/gate_self.py

$(VENV)/triton: constraints.txt | $(VENV)/.dev
	$(PIP) install --upgrade --no-deps --target $@ $$(grep '^triton==' constraints.txt)
	@touch $@

kernels: $(VENV)/triton  ## test the Triton kernels without a GPU, in Triton's interpreter (installs 290 MB once)
	PYTHONPATH=$(VENV)/triton $(BIN)/python -m pytest -n $(WORKERS) tests/fast/test_kernels_compile.py
	PYTHONPATH=$(VENV)/triton TRITON_INTERPRET=1 $(BIN)/python -m pytest -n $(WORKERS) tests/fast/test_kernels.py

gate-self: $(VENV)/.dev  ## fail if perstep itself costs more than in the committed baseline of ratios
	$(BIN)/python -P benchmarks/gate_self.py

busy: $(VENV)/.dev  ## run the tests three times beside 6 busy processes, those of real clocks beside 20
	$(BIN)/python tests/busy.py 6 --times 3 -- -m "not nightly" -n $(WORKERS) --dist worksteal
	$(BIN)/python tests/busy.py 20 -- -m "real_clock and not nightly"

stale:  ## list results of benchmarks that are older than what they measure
	@$(PYTHON) benchmarks/stale.py

bench: $(VENV)/.dev  ## run the benchmarks on a quiet machine; results go to benchmarks/results/
	$(BIN)/python benchmarks/run.py

clean:  ## remove the environment, caches and built documentation
	rm -rf $(VENV) site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
