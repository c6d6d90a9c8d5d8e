# Every verb sets up what it needs in .venv. A fresh machine needs python3 (3.11 or newer, with venv), a C compiler, make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The peers are many and large: they have an environment of their own.
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
ROUNDS ?= 3
# As pip does with what it installs: a cluster is many processes, and none is to compile what another one has compiled.
COMPILE := -m compileall -q concurrent_nb benchmarks tests

.PHONY: help demo test lab lint bench bench-quick clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         run the demonstration notebooks on a cluster of this machine"
	@echo "make test         lint, then the whole test suite"
	@echo "make lab          JupyterLab on notebooks/"
	@echo "make lint         ruff, mypy and the layers"
	@echo "make bench-quick  us beside the standard library's pools, under two minutes"
	@echo "make bench        us beside all peers, in .venv-bench; writes benchmarks/RESULTS.md"
	@echo "make clean        remove .venv, .venv-bench, caches and builds"

demo: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python notebooks/run_demo.py

test: lint
	@$(BIN)/python $(COMPILE)
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=300 notebooks
	$(BIN)/python -m pytest

lab: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/jupyter lab --notebook-dir=notebooks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BENCH_STAMP)
	@$(BENCH_VENV)/bin/python $(COMPILE)
	$(BENCH_VENV)/bin/python -m benchmarks.run --rounds $(ROUNDS) --results benchmarks/RESULTS.md

bench-quick: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python -m benchmarks.run --rounds 1 --size quick

clean:
	rm -rf $(VENV) $(BENCH_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define CHECK_PYTHON
@command -v $(PYTHON) >/dev/null || { echo "concurrent_nb needs Python 3.11 or newer: install python3 and python3-venv" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "concurrent_nb needs Python 3.11 or newer, and $(PYTHON) is older: name one with 'make PYTHON=python3.12'" >&2; exit 1; }
@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
endef

$(STAMP): pyproject.toml setup.cfg $(wildcard kernels/*/kernel.json)
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[notebook,test,tls]"
	$(BIN)/jupyter kernelspec install --log-level=WARN --sys-prefix kernels/concurrent
	$(BIN)/jupyter kernelspec install --log-level=WARN --sys-prefix kernels/concurrent_slave
	@touch $@

$(BENCH_STAMP): pyproject.toml setup.cfg
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --editable ".[bench]"
	@touch $@
