# Every verb sets up what it needs, in .venv. A fresh machine needs python3 (3.11 or newer, with venv), a C compiler, make.
# With another Python, such as `make test PYTHON=python3.13`, it is in an environment of its own: .venv-3.13.

PYTHON ?= python3
# $(call FIND_PYTHON,python3.13): with pyenv, such a command may be there and run only where that version has been chosen.
FIND_PYTHON = $(or $(shell $(1) -c 'import sys; print(sys.executable)' 2>/dev/null),$(lastword $(sort $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/*/bin/$(1)))),$(1))
FOUND_PYTHON := $(call FIND_PYTHON,$(PYTHON))
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(FOUND_PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The newest of everything, whatever constraints.txt says.
LATEST_VENV := .venv-latest$(VENV:.venv%=%)
# The peers are many and large: they have an environment of their own.
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
ROUNDS ?= 3
SECONDS ?= 3600
comma := ,
# Pythons for which `make constraints` looks for versions; those that are not here keep what they had.
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
# One test process per core, eight at most; the tests of a file share its clusters and stay together.
PARALLEL := --numprocesses=logical --maxprocesses=8 --dist=loadfile
# As pip does with what it installs: a cluster is many processes, and none is to compile what another one has compiled.
COMPILE := -m compileall -q concurrent_nb benchmarks tests
# A container often has no other user than root, which JupyterLab refuses if it is not told.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help demo test test-short test-latest lab lint venv constraints bench bench-quick fuzz floods clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         run the demonstration notebooks on a cluster of this machine"
	@echo "make test         lint, then the whole test suite"
	@echo "make test-short   the unit, contract and notebook tests, as CI runs them on the newest Python"
	@echo "make test-latest  the test suite with the newest of everything, in .venv-latest"
	@echo "make lab          JupyterLab on notebooks/"
	@echo "make lint         ruff, mypy and the layers"
	@echo "make venv         install alone, into .venv"
	@echo "make constraints  look for the newest versions that go together, and write constraints.txt"
	@echo "make bench-quick  us beside the standard library's pools, under two minutes"
	@echo "make bench        us beside all peers, in .venv-bench; writes benchmarks/RESULTS.md"
	@echo "make fuzz         an hour of bad peers of every role, beside good ones; SECONDS=60 for a minute"
	@echo "make floods       what one client can make a master hold, and what a good client notices of it"
	@echo "make clean        remove .venv and the like, caches and builds"
	@echo "... PYTHON=python3.13: with that Python, in .venv-3.13"

demo: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python notebooks/run_demo.py

test: lint
	$(call TEST_NOTEBOOKS,$(VENV))
	$(BIN)/python -m pytest $(PARALLEL)

test-short: $(STAMP)
	$(call TEST_NOTEBOOKS,$(VENV))
	$(BIN)/python -m pytest $(PARALLEL) tests/unit tests/contract tests/test_life_of_a_task.py

test-latest:
	$(CHECK_PYTHON)
	@rm -rf $(LATEST_VENV)
	$(call INSTALL,$(LATEST_VENV),notebook$(comma)test$(comma)tls)
	$(call KERNELS,$(LATEST_VENV))
	$(call TEST_NOTEBOOKS,$(LATEST_VENV))
	$(LATEST_VENV)/bin/python -m pytest $(PARALLEL)

lab: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/jupyter lab --notebook-dir=notebooks $(AS_ROOT)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

venv: $(STAMP)

constraints:
	$(CHECK_PYTHON)
	@$(FOUND_PYTHON) -m venv --clear .venv-constraints
	@.venv-constraints/bin/python -m pip install --quiet --upgrade pip
	.venv-constraints/bin/python .ci/constraints.py $(foreach python,$(PYTHONS),$(call FIND_PYTHON,$(python)))
	@rm -rf .venv-constraints

bench: $(BENCH_STAMP)
	@$(BENCH_VENV)/bin/python $(COMPILE)
	$(BENCH_VENV)/bin/python -m benchmarks.run --rounds $(ROUNDS) --results benchmarks/RESULTS.md

bench-quick: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python -m benchmarks.run --rounds 1 --size quick

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzzer.fuzz --seconds $(SECONDS)

floods: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python -m benchmarks.floods

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define CHECK_PYTHON
@$(FOUND_PYTHON) -c '' 2>/dev/null || { echo "there is no $(PYTHON) that runs: concurrent_nb needs Python 3.11 or newer; install python3 and python3-venv, or name another one with 'make PYTHON=python3.12'" >&2; exit 1; }
@$(FOUND_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "concurrent_nb needs Python 3.11 or newer, and $(PYTHON) is older: name one with 'make PYTHON=python3.12'" >&2; exit 1; }
@$(FOUND_PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
endef

# $(call INSTALL,folder,extras,constraints or nothing). pip has nothing to say for minutes when it is quiet, and hundreds of
# lines when it is not: they go to a file, and a line now and then tells how far it is.
define INSTALL
	@echo "Setting up $(1) with $$($(FOUND_PYTHON) --version): about 140 packages, a minute or some the first time. The log is $(1)/install.log"
	@$(FOUND_PYTHON) -m venv $(1)
	@: >$(1)/install.log; \
	(s=0; while sleep 10 >/dev/null 2>&1; do s=$$((s + 10)); \
		echo "    $$s s: $$(grep -E '^(Collecting|Installing|Successfully)' $(1)/install.log | tail -n 1 | cut -c 1-60)"; \
	done) & progress=$$!; \
	trap "kill $$progress 2>/dev/null" EXIT; \
	$(3) $(1)/bin/python -m pip install --progress-bar off --editable ".[$(2)]" >>$(1)/install.log 2>&1 \
		|| { tail -n 20 $(1)/install.log >&2; exit 1; }
	@echo "    done"
endef
# The second variable is for what builds our own package, with newer pips.
CONSTRAINED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt

define TEST_NOTEBOOKS
	@$(1)/bin/python $(COMPILE)
	$(1)/bin/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=300 notebooks
endef

define KERNELS
	@$(1)/bin/jupyter kernelspec install --log-level=WARN --sys-prefix kernels/concurrent
	@$(1)/bin/jupyter kernelspec install --log-level=WARN --sys-prefix kernels/concurrent_slave
endef

$(STAMP): pyproject.toml setup.cfg constraints.txt $(wildcard kernels/*/kernel.json)
	$(CHECK_PYTHON)
	$(call INSTALL,$(VENV),notebook$(comma)test$(comma)tls,$(CONSTRAINED))
	$(call KERNELS,$(VENV))
	@touch $@

$(BENCH_STAMP): pyproject.toml setup.cfg constraints.txt
	$(CHECK_PYTHON)
	$(call INSTALL,$(BENCH_VENV),bench,$(CONSTRAINED))
	@touch $@
