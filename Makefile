# Every target sets up what it needs in .venv. A new machine needs python3 (3.11 or newer, with venv), a C compiler and make.
# Another Python has an environment of its own: `make test PYTHON=python3.13` uses .venv-3.13.

PYTHON ?= python3
# $(call FIND_PYTHON,python3.13): pyenv installs such a command, but it fails where another version is selected.
FIND_PYTHON = $(or $(shell $(1) -c 'import sys; print(sys.executable)' 2>/dev/null),$(lastword $(sort $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/*/bin/$(1)))),$(1))
FOUND_PYTHON := $(call FIND_PYTHON,$(PYTHON))
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(shell $(FOUND_PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The newest version of each package, without constraints.txt.
LATEST_VENV := .venv-latest$(VENV:.venv%=%)
# The peers of the benchmarks are large, so they have an environment of their own.
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
# The wheel, with the oldest Lab and Jupyter Server that pyproject.toml allows, has one too.
OLDEST_LAB_VENV := .venv-oldest-lab$(VENV:.venv%=%)
OLDEST_LAB := $(shell sed -nE 's/^ *"(jupyterlab|jupyter_server)>=([0-9.]+)",/\1==\2/p' pyproject.toml)
ROUNDS ?= 3
SECONDS ?= 3600
S ?= 3600
SEED ?= 1
comma := ,
# Pythons for which `make constraints` looks for versions. Versions for Pythons that are not installed here stay.
PYTHONS ?= python3.11 python3.12 python3.13 python3.14
# The tests of a file share clusters, so they run in one process. There is one process more than cores, at most nine:
# many tests wait for a browser, a timeout or a process that starts.
CORES := $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
PARALLEL := --numprocesses=$(shell expr $(CORES) + 1) --maxprocesses=9 --dist=loadfile
# A cluster has many processes: compile the byte code once, as pip does for installed packages.
COMPILE := -m compileall -q concurrent_nb benchmarks tests
# In a container root is often the only user, and JupyterLab refuses to run as root without this option.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help demo check test test-unit test-short test-latest test-oldest-lab pictures lab lint lint-web dist venv constraints bench bench-quick fuzz soak floods clean
.DEFAULT_GOAL := help

help:
	@echo "make demo         run the demonstration notebooks on a cluster on this machine"
	@echo "make check        lint and the unit tests in parallel: for the time between two commits"
	@echo "make test         lint, then the whole test suite"
	@echo "make test-unit    the unit tests"
	@echo "make test-short   the unit, contract and notebook tests, as CI runs them on the newest Python"
	@echo "make test-latest  the test suite with the newest version of each package, in .venv-latest"
	@echo "make test-oldest-lab  the wheel with the oldest JupyterLab that is supported, in .venv-oldest-lab"
	@echo "make pictures     pictures of the pages that the tests in a browser see, light and dark, in .pictures"
	@echo "make lab          JupyterLab on notebooks/"
	@echo "make lint         ruff, mypy and import-linter"
	@echo "make lint-web     types and style of the JavaScript; needs node and npm, which nothing else does"
	@echo "make dist         build the source distribution and the wheel in dist/, and check them with twine"
	@echo "make venv         only install, into .venv"
	@echo "make constraints  find the newest versions that work together, and write constraints.txt"
	@echo "make bench-quick  compare with the standard library's pools, in under two minutes"
	@echo "make bench        compare with all peers, in .venv-bench; writes benchmarks/RESULTS.md"
	@echo "make fuzz         an hour of faulty peers of every role beside good ones; SECONDS=60 for a minute"
	@echo "make soak S=3600  load on a cluster whose processes are killed and stopped, with a check of what becomes of it"
	@echo "make floods       how much one client can make a master hold, and how much it slows other clients down"
	@echo "make clean        remove environments, caches and builds"
	@echo "Add PYTHON=python3.13 to use that Python, in .venv-3.13"

demo: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python notebooks/run_demo.py

# Recursive, so that plain `make check` runs both at the same time.
check: $(STAMP)
	@$(MAKE) --no-print-directory --jobs=2 lint test-unit

test-unit: $(STAMP)
	$(BIN)/python -m pytest --quiet $(PARALLEL) tests/unit

test: lint
	$(call TEST_NOTEBOOKS,$(VENV))
	$(BIN)/python -m pytest $(PARALLEL) --pictures=.pictures

# To look at: each page of the tests in a browser, in both themes.
pictures: $(STAMP)
	$(BIN)/python -m pytest --quiet --pictures=.pictures tests/browser
	$(BIN)/python -m pytest --quiet --pictures=.pictures --theme=dark tests/browser

test-short: $(STAMP)
	$(call TEST_NOTEBOOKS,$(VENV))
	$(BIN)/python -m pytest $(PARALLEL) tests/unit tests/contract tests/test_life_of_a_task.py

test-latest:
	$(CHECK_PYTHON)
	@rm -rf $(LATEST_VENV)
	$(call INSTALL,$(LATEST_VENV),notebook$(comma)test$(comma)tls)
	$(call DATA_FILES,$(LATEST_VENV))
	$(call TEST_NOTEBOOKS,$(LATEST_VENV))
	$(LATEST_VENV)/bin/python -m pytest $(PARALLEL)

test-oldest-lab: dist
	@echo "Setting up $(OLDEST_LAB_VENV) with $(OLDEST_LAB)"
	@$(FOUND_PYTHON) -m venv --clear $(OLDEST_LAB_VENV)
	@grep -vE '^(jupyterlab|jupyter-server)==' constraints.txt >$(OLDEST_LAB_VENV)/constraints.txt
	$(OLDEST_LAB_VENV)/bin/python -m pip install --quiet --no-compile --constraint $(OLDEST_LAB_VENV)/constraints.txt \
		"$$(echo dist/*.whl)[notebook]" $(OLDEST_LAB)
	CONCURRENT_NB_LAB_PYTHON=$(CURDIR)/$(OLDEST_LAB_VENV)/bin/python $(BIN)/python -m pytest \
		-o cache_dir=$(OLDEST_LAB_VENV)/.pytest_cache tests/integration/test_installation.py tests/browser/test_lab_extension.py

lab: $(STAMP)
	@$(BIN)/python $(COMPILE)
	@$(BIN)/python .ci/copy_lab_extension.py
	$(BIN)/jupyter lab --notebook-dir=notebooks $(AS_ROOT)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-web: tests/web/node_modules
	@cd tests/web && npm run --silent types && npm run --silent lint && npm run --silent check-format

tests/web/node_modules: tests/web/package-lock.json
	@cd tests/web && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

dist: $(STAMP)
	@rm -rf build dist
	$(CONSTRAINED) $(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

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
	$(BENCH_VENV)/bin/python -m benchmarks.joblib_backend --rounds $(ROUNDS) --results benchmarks/RESULTS.md
	$(BENCH_VENV)/bin/python -m benchmarks.engines --rounds $(ROUNDS) --results benchmarks/RESULTS.md
	$(BENCH_VENV)/bin/python -m benchmarks.graphs --rounds $(ROUNDS) --results benchmarks/RESULTS.md
	$(BENCH_VENV)/bin/python -m benchmarks.worlds --rounds $(ROUNDS) --results benchmarks/RESULTS.md

bench-quick: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python -m benchmarks.run --rounds 1 --size quick
	-$(BIN)/python -m benchmarks.feed --only cpu --rounds 1 --seconds 4

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzzer.fuzz --seconds $(SECONDS)

soak: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python -m tests.soak.soak --seconds $(S) --seed $(SEED)

floods: $(STAMP)
	@$(BIN)/python $(COMPILE)
	$(BIN)/python -m benchmarks.floods

clean:
	rm -rf .venv .venv-* .pictures build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define CHECK_PYTHON
@$(FOUND_PYTHON) -c '' 2>/dev/null || { echo "$(PYTHON) is missing or does not run: concurrent_nb needs Python 3.11 or newer; install python3 and python3-venv, or choose another Python with 'make PYTHON=python3.12'" >&2; exit 1; }
@$(FOUND_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "concurrent_nb needs Python 3.11 or newer, and $(PYTHON) is older: choose one with 'make PYTHON=python3.12'" >&2; exit 1; }
@$(FOUND_PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
endef

# $(call INSTALL,folder,extras,constraints or nothing). pip prints hundreds of lines, or nothing for minutes with --quiet:
# its output goes to a log file, and every ten seconds one line shows the progress.
define INSTALL
	@echo "Setting up $(1) with $$($(FOUND_PYTHON) --version): about 180 packages, one or more minutes the first time. The log is $(1)/install.log"
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
# Newer versions of pip read the second variable for what builds our own package.
CONSTRAINED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt

define TEST_NOTEBOOKS
	@$(1)/bin/python $(COMPILE)
	$(1)/bin/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout=300 notebooks
endef

define DATA_FILES
	@mkdir -p $(1)/etc/jupyter/jupyter_server_config.d
	@cp jupyter_server_config.d/concurrent_nb.json $(1)/etc/jupyter/jupyter_server_config.d/
	@$(1)/bin/jupyter kernelspec install --log-level=WARN --sys-prefix kernels/concurrent
	@$(1)/bin/jupyter kernelspec install --log-level=WARN --sys-prefix kernels/concurrent_slave
	@$(1)/bin/python .ci/copy_lab_extension.py
endef

$(STAMP): pyproject.toml setup.cfg setup.py constraints.txt $(wildcard kernels/*/kernel.json jupyter_server_config.d/*.json) .ci/copy_lab_extension.py
	$(CHECK_PYTHON)
	$(call INSTALL,$(VENV),notebook$(comma)test$(comma)tls$(comma)dev,$(CONSTRAINED))
	$(call DATA_FILES,$(VENV))
	@touch $@

$(BENCH_STAMP): pyproject.toml setup.cfg setup.py constraints.txt
	$(CHECK_PYTHON)
	$(call INSTALL,$(BENCH_VENV),bench,$(CONSTRAINED))
	@touch $@
