# Everything runs in .venv; `make setup` makes it.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
REPLICATA := $(BIN)/replicata

.PHONY: setup demo test lint format bench lock clean help

help:            ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

setup: .venv/.installed  ## install everything into .venv

.venv/.installed: pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24" -c requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,tensorboard]" -c requirements.lock
	@touch $@

demo: setup      ## a real comparison on embedded data, in two minutes
	$(REPLICATA) study adaptive/mip --arms default,mip --seeds 3 launcher=local

test: setup lint ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --max-worker-restart 0 $(PYTEST)

lint: setup      ## ruff, mypy, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup    ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup     ## speed, as ratios within one run
	$(BIN)/python scripts/benchmark_startup.py
	$(BIN)/python scripts/benchmark_overhead.py
	$(BIN)/python scripts/benchmark_sweep.py
	$(BIN)/python scripts/benchmark_records.py
	$(BIN)/python scripts/benchmark_dashboard.py

lock: setup      ## renew requirements.lock from what is installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude replicata > requirements.lock

clean:           ## remove builds and caches; runs under outputs/ stay
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
