# Everything runs in .venv, which is made on first use and refreshed when pyproject.toml or
# constraints.txt change. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := src tests benchmarks docs
DEMO := configs/demo.yaml
DEMO_METHODS := ems_fl,fedavg,fedavg_fill,fedasync
ALL_METHODS := $(DEMO_METHODS),ems_fl_no_gate,ems_fl_gate_only,ems_fl_frozen_shared,ems_fl_random

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help install demo evidence-demo test lint format bench docs readme constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## make or refresh the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.11;" \
	       "name one with: make $(or $(MAKECMDGOALS),install) PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing emsfl and its pinned dependencies into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
	  --constraint constraints.txt --editable '.[data,dev]'
	@touch $@

demo: $(STAMP) ## EMS-FL against FedAvg and FedAsync: a table and a page, in minutes
	@$(BIN)/emsfl run $(DEMO) --methods $(DEMO_METHODS) --seeds 0

evidence-demo: $(STAMP) ## the demo with three seeds and every ablation
	@$(BIN)/emsfl run $(DEMO) --methods $(ALL_METHODS) --seeds 0,1,2

test: $(STAMP) ## run the tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

lint: $(STAMP) ## check style, types and the floors of the house
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## mend style where a tool can
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

bench: $(STAMP) ## measure overheads side by side; prints the ratios
	@set -e; for program in benchmarks/bench_*.py; do $(BIN)/python $$program; done

docs: $(STAMP) ## regenerate the reference pages from the code
	@$(BIN)/python docs/generate_reference.py

readme: $(STAMP) ## run the demo and put its printed result into README.md
	@mkdir -p runs
	@COLUMNS=96 $(MAKE) demo > runs/readme.txt
	@$(BIN)/python docs/fill_readme.py runs/readme.txt

constraints: $(STAMP) ## pin what is installed now (after upgrading by hand in .venv)
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable \
	  | sed '/^pip==/d; s/+cpu$$//'; } > constraints.new && mv constraints.new constraints.txt

clean: ## remove the environment, caches and builds; keeps runs/
	@rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	@find src tests benchmarks docs -name __pycache__ -type d -exec rm -rf {} +
