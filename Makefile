# Waybill. `make help` lists the targets; `make dev` and `make test` need nothing but make and python3.11+ with venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
ARGS ?=
CONTAINER_TESTS := tests/contract $(patsubst %,tests/integration/test_%.py,group_commit held_locks guards plans roles)

.PHONY: help install dev demo test test-containers fuzz chaos check format bench lock histories clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-15s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## create .venv and install the hash-locked requirements

# --no-build-isolation: the build backend is in the lock, so nothing unlocked is fetched.
$(VENV)/.installed: requirements-dev.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Waybill needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks venv: install it (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Installing into $(VENV), about a minute the first time ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

dev: install ## run everything: PostgreSQL, Temporal with its Web UI, a worker and the gateway (ARGS="--api-port 0 ...")
	@exec $(BIN)/waybill dev $(ARGS)

demo: install ## boot a throw-away stack, take orders to shipment, show what happened
	@exec $(BIN)/python -m dev.demo $(ARGS)

test: install ## the whole suite, against real servers, in two processes (ARGS="-k name", "-n 0" for one)
	@exec $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-containers: install ## what wants Docker: the store's tests on PostgreSQL in a container, the image, the stack
	@docker compose version >/dev/null 2>&1 && docker version >/dev/null 2>&1 || \
		{ echo "make test-containers needs Docker with Compose 2, and a daemon that answers" >&2; exit 1; }
	@WAYBILL_TEST_POSTGRES=docker $(BIN)/python -m pytest $(CONTAINER_TESTS) $(ARGS)
	@WAYBILL_TEST_CONTAINERS=1 $(BIN)/python -m pytest tests/containers $(ARGS)

fuzz: install ## schemathesis against a whole stack (ARGS="--seconds 600")
	@exec env PYTHONPATH=.:tests $(BIN)/python -m fuzz.run $(ARGS)

chaos: install ## load while everything is killed, paused and cut off; then a look at what is left (ARGS="--minutes 10 --seed 7")
	@exec env PYTHONPATH=.:tests $(BIN)/python -m proof.run $(ARGS)

check: install ## format, lint, types, import directions
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/basedpyright
	@PYTHONPATH=. $(BIN)/lint-imports

format: install ## format, and mend what the linter can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install ## the benchmarks; prints a table, writes benchmarks/results/
	@exec $(BIN)/python -m benchmarks $(ARGS)

histories: install ## record the workflow histories that the replay test holds the code to
	@exec env PYTHONPATH=tests $(BIN)/python -m replay.record $(ARGS)

lock: install ## pin the newest allowed versions, with hashes
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade \
		pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade \
		-c requirements.lock --extra dev pyproject.toml -o requirements-dev.lock

clean: ## remove .venv, caches and the development data
	rm -rf $(VENV) .waybill .pytest_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache
