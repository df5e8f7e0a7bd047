# Needs GNU make and Python 3.11 or newer; everything else goes into .venv beside this file.

PYTHON ?= python3
BIN := .venv/bin
NO_VENV := sudo apt install python3-venv
EXPERIMENT ?= gpt3-175b-a100

.PHONY: run test check lint types bench docs clean

run: .venv/installed
	@$(BIN)/clustersim run $(EXPERIMENT)

test: .venv/installed-dev
	@$(BIN)/python -m pytest -n 2

check: lint types test

lint: .venv/installed-dev
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

types: .venv/installed-dev
	@$(BIN)/python -m mypy

bench: .venv/installed
	@$(BIN)/python -m bench

docs: .venv/installed
	@$(BIN)/python -c 'from sim.spec.document import reference_markdown as text; print(text(), end="")' >docs/input.md
	@$(BIN)/python tests/pages.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist results

.venv/created:
	@command -v $(PYTHON) >/dev/null || { echo "clustersim needs Python 3.11 or newer: sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "clustersim needs Python 3.11 or newer; point PYTHON at one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(NO_VENV)" >&2; exit 1; }
	@echo "Setting up .venv (once) ..." >&2
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable .
	@touch $@

.venv/installed-dev: .venv/created pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[dev]'
	@touch $@ .venv/installed
