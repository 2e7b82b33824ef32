# `make demo` and `make test` are all the set-up there is. Both can be run again at any time.
#
#   PYTHON=python3.12     the Python to make .venv with
#   PIP_FLAGS=...         further arguments for `pip install`, for example another index
PYTHON ?= python3
PIP_FLAGS ?=
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
# Tests run side by side, a file at a time, so that what a file's tests share is made once.
PYTEST_FLAGS ?= -n 2 --dist loadfile --durations=15
.DEFAULT_GOAL := help
.PHONY: help demo demo-firmware test lint toolchains clean distclean

help:
	@echo "make demo           compress a built-in teacher and show the result"
	@echo "make demo-firmware  run a compressed policy on two emulated boards"
	@echo "make test           install what the tests need, lint, type-check, run them all"
	@echo "make lint           ruff and mypy alone"
	@echo "make clean          remove caches and builds; make distclean removes $(VENV) too"

demo: $(VENV)/train.stamp
	$(BIN)/pops demo

demo-firmware:
	@$(MAKE) --no-print-directory -C firmware_demo demo

test: export OMP_NUM_THREADS = 1
test: $(VENV)/dev.stamp toolchains lint
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

toolchains:
	@.ci/toolchains

# A stamp is the last thing an install leaves: one that was broken off is done again.
$(VENV)/%.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "constraints.txt holds versions for Python 3.11 or later, $(PYTHON) is" \
			"$$($(PYTHON) --version 2>&1); name another one: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing .[$*] into $(VENV), which takes a minute or two"
	@$(PIP) -e '.[$*]'
	@touch $@

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@$(MAKE) --no-print-directory -C firmware_demo clean

distclean: clean
	rm -rf $(VENV)
