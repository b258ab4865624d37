PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo test simulate chaos fuzz lint run
.DEFAULT_GOAL := help

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed ## Make .venv with everything (make install PYTHON=python3.12 for another Python)

demo: .venv/.installed ## Play the scripted outage on real processes, with a verdict
	@$(BIN)/python -m demo

test: .venv/.installed ## Run the whole test suite
	@$(BIN)/python -m pytest

simulate: .venv/.installed ## Run the fleet through weeks of virtual time (SEED=1, MINUTES=5)
	@$(BIN)/python -m tests.simulation --seed $(or $(SEED),1) --minutes $(or $(MINUTES),5)

chaos: .venv/.installed ## Kill, cut and stall everything under a campaign (SEED=1), then play each known trap of Celery's
	@$(BIN)/python -m tests.chaos --seed $(or $(SEED),1)
	@$(BIN)/python -m pytest tests/chaos

fuzz: .venv/.installed ## Send 10,000 mutated messages to a real worker (SEED=1)
	@FUZZED_MESSAGES=10000 FUZZED_SEED=$(or $(SEED),1) $(BIN)/python -m pytest -k mutated tests/worker/test_messages.py

lint: .venv/.installed ## Check style, types and import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The variables of .env count as well, in honcho's reading of the file.
run: export PATH := $(CURDIR)/$(BIN):$(PATH)
run: .venv/.installed ## Run the Procfile, with a Redis under data/ unless REDIS_URL is set
	@mkdir -p data logs
	@if [ -n "$$(honcho run printenv REDIS_URL)" ]; then exec honcho start; fi; \
	exec python -m local.redis_server --dir data -- honcho start

.venv/.installed: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Lineman needs CPython 3.11 or newer, and '$(PYTHON)' is not: make install PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
