# One command each, the same for a person and for CI.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
    $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,13))' 2>/dev/null && echo $$p && break; done)

.PHONY: help setup sweep test test-slow drill bench check format up down clean

help:           ## print the targets
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: $(VENV)/.done  ## make .venv with the pinned packages

$(VENV)/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 (PATH): install one, or set PYTHON=/path/to/python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: installing the pinned packages into $(VENV) (a few GB; 3-5 minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

sweep: setup    ## start the local stack and run the demo sweep as a Ray job
	@$(BIN)/rayseg up
	@$(BIN)/rayseg submit jobs/gald_sweep.py -- --preset demo
	@echo 'the stack stays up for your review; `make down` ends it'

test: setup     ## run every test that needs no GPU
	@$(BIN)/python -m pytest -n auto --maxprocesses 4

test-slow: setup  ## run the tests that take minutes
	@$(BIN)/python -m pytest -m slow

drill: setup    ## train a small run under eight faults, and say what they cost
	@$(BIN)/rayseg drill

bench: setup    ## run every benchmark and keep its page in docs/benchmarks
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@set -e; for b in $(filter-out benchmarks/measure.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$b --write; done

check: setup    ## ruff, mypy, import contracts
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup   ## format in place
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

up: setup       ## start the local stack (Ray head, MLflow)
	@$(BIN)/rayseg up

down: setup     ## end the local stack
	@$(BIN)/rayseg down

clean:          ## remove caches (never runs or data)
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@rm -rf .pytest_cache .mypy_cache .ruff_cache build
