# Everything runs in .venv, which is made on first use and refreshed when pyproject.toml or
# constraints.txt change. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
COMPLETE := $(VENV)/.complete
# Without compiling what may never be imported: Python does it on first use.
INSTALL := $(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check \
  --constraint constraints.txt --editable
CODE := src tests benchmarks docs
DEMO := configs/demo.yaml
DEMO_METHODS := ems_fl,fedavg,fedavg_fill,fedasync

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help install demo test test-faults lint format bench docs readme constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

install: $(COMPLETE) ## make or refresh the environment in .venv

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.11;" \
	       "name one with: make $(or $(MAKECMDGOALS),install) PYTHON=python3.11" >&2; exit 1; }
	@echo "installing emsfl and its pinned dependencies into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) '.[data]'
	@touch $@

$(COMPLETE): $(RUNTIME)
	@echo "adding the optional extras and the developers' tools"
	@$(INSTALL) '.[data,hf,text,deploy,dev]'
	@touch $@

demo: $(RUNTIME) ## EMS-FL against FedAvg and FedAsync: a table and a page, in minutes
	@$(BIN)/emsfl run $(DEMO) --methods $(DEMO_METHODS) --seeds 0 --workers 2

test: $(COMPLETE) ## run the tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-faults: $(COMPLETE) ## run the tests with real processes and faults (FAULTS=short: fewer)
	@$(BIN)/python -m pytest tests/faults -m "faults$(if $(FAULTS), and $(FAULTS))" --durations 0

lint: $(COMPLETE) ## check style, types and the floors of the house
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(COMPLETE) ## mend style where a tool can
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

bench: $(COMPLETE) ## measure overheads side by side; prints the ratios
	@set -e; for program in benchmarks/bench_*.py; do $(BIN)/python $$program; done

docs: $(COMPLETE) ## regenerate the reference pages from the code
	@$(BIN)/python docs/generate_reference.py

readme: $(RUNTIME) ## run the demo and put its printed result into README.md
	@mkdir -p runs
	@COLUMNS=96 $(MAKE) demo > runs/readme.txt
	@$(BIN)/python docs/fill_readme.py runs/readme.txt

constraints: $(COMPLETE) ## pin what is installed now (after upgrading by hand in .venv)
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable \
	  | sed '/^pip==/d; s/+cpu$$//'; } > constraints.new && mv constraints.new constraints.txt

clean: ## remove the environment, caches and builds; keeps runs/
	@rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	@find src tests benchmarks docs -name __pycache__ -type d -exec rm -rf {} +
