# `make run` and `make test` need only Python (3.11 or newer, with pip) and make.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
# An interpreter that was asked for is used, even if .venv already has another.
SETUP := $(PYTHON) tests/tools/setup_env.py $(if $(filter file,$(origin PYTHON)),,--exact)

# The data sets of the tests and benchmarks, if they lie beside the repository.
ifndef CPOOL_DATA
ifneq ($(wildcard ../shared/data/.),)
export CPOOL_DATA := $(abspath ../shared/data)
endif
endif

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test benchmarks setup lint types docs check clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

run: ## install cpool into .venv and run the quickstart experiment on the CPU
	@echo "cpool quickstart: learns scikit-learn's digits task after task, with several methods, on the"
	@echo "small vision transformer that comes with cpool. It makes a private environment in .venv, runs"
	@echo "benchmarks/experiments/quickstart.toml there, and writes everything to runs/quickstart."
	@$(SETUP) run
	@$(BIN)/cpool run benchmarks/experiments/quickstart.toml --out runs/quickstart --resume

test: lint types docs check ## everything that must pass: lint, types, docs, all tests

benchmarks: setup ## run all of benchmarks/experiments, JOBS at a time, and make the page; resumable
	-@$(BIN)/python -m benchmarks.vit_s
	-@$(BIN)/python -m benchmarks.smollm2
	@$(BIN)/python -m benchmarks.run_all --jobs $(JOBS) $(ARGS)

setup: ## make the environment of the tests (what `make test` does first)
	@$(SETUP) test

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy, strict
	@$(BIN)/mypy

docs: setup ## build the site into site/, warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -f docs/mkdocs.yml
	@echo "docs: site/index.html"

check: setup ## the tests alone
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

clean: ## remove .venv, the site and the caches (runs/ stays)
	@rm -rf .venv site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
