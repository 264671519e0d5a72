# Needs python3 (3.11 or newer) with pip, ensurepip or uv; everything else lands in .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.stamp
# More words for the command of a target: make test ARGS="-k retry -x"
ARGS ?=
# Which fault runs, as in FAULTS="--seeds 17 --workers 5", and how often things race for a gate.
FAULTS ?= --seeds 1-200
RACES ?= --trials 100000

# Tests of what behaves the same however stores learn of changes.
STORED := tests/contract tests/contract_io tests/engine tests/postgres tests/e2e
# Tests that call bodies. The others pass as well with bodies dropped, and show nothing by it: stores and I/O managers by
# themselves, sources, what is pure.
CALLED := tests/unit/definition tests/engine tests/web tests/postgres tests/e2e

# Pyright asks a registry whether it is the newest, unless told not to.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: setup demo test modes check bench faults format lock help

setup:  ## make .venv from requirements.lock, or bring it up to date
	@$(PYTHON) tools/bootstrap.py

$(READY): requirements.lock pyproject.toml tools/bootstrap.py
	@$(PYTHON) tools/bootstrap.py

demo: $(READY)  ## kill a run over the standard library halfway, and let it go on
	@$(BIN)/python tools/demo.py

test: $(READY)  ## run the tests
	@$(BIN)/python -m pytest -q -n 4 $(ARGS)

modes: $(READY)  ## run what needs a store by polling alone, behind a transaction pooler, with bodies dropped
	@$(BIN)/python -m pytest -q -n 4 --mode=poll $(STORED) $(ARGS)
	@$(BIN)/python -m pytest -q -n 4 --mode=pooler $(STORED) $(ARGS)
	@$(BIN)/python -m pytest -q -n 4 --mode=evict $(CALLED) $(ARGS)

check: $(READY)  ## format, lint, types, layers and budgets: what CI runs besides the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright flowstone_async tests/typing/levels.py tests/typing/inference.py tests/typing/batches.py tests/typing/steps.py tests/typing/approvals.py tests/typing/returned.py tests/typing/returned_requests.py examples benchmarks tools
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m pytest -q tests/architecture tests/typing

bench: $(READY)  ## measure everything in benchmarks/ beside its floor
	@$(BIN)/python -m benchmarks $(ARGS)

faults: $(READY)  ## break workers, server and network by seed, then run the long tests
	@$(BIN)/python -m tests.faults $(FAULTS)
	@$(BIN)/python -m tests.faults.races $(RACES)
	@$(BIN)/python -m pytest -q -m faults -o faulthandler_timeout=600 $(ARGS)

format: $(READY)  ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

lock: $(READY)  ## resolve requirements.lock again; needs uv
	@$(BIN)/python tools/lock.py $(ARGS)

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/\1 \2/p' Makefile | while read -r target does; do printf '  make %-8s %s\n' "$$target" "$$does"; done
