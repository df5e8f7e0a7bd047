# Needs GNU make and Python 3.11 or newer; everything else goes into .venv beside this file.

PYTHON ?= python3
BIN := .venv/bin
NO_VENV := sudo apt install python3-venv
EXPERIMENT ?= gpt3-175b-a100

LOCK := requirements
COMPILE = $(BIN)/python -m uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-annotate --upgrade --custom-compile-command "make lock" pyproject.toml
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
EDITABLE = $(INSTALL) --no-deps --no-build-isolation --editable .

.PHONY: run test check lint types bench docs site package lock clean

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
	@$(BIN)/python -c 'from sim.inputs.document import reference_markdown as text; print(text(), end="")' >docs/input.md
	@$(BIN)/python -m typer sim.cli.verbs utils docs --name clustersim --title "Commands" >docs/commands.md
	@$(BIN)/clustersim timeline docs/pictures/step.yaml --format svg -o docs/pictures/step.svg
	@$(BIN)/python tests/pages.py

site: .venv/installed-site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "build/site/index.html" >&2

package: .venv/installed-site
	@rm -rf dist
	@$(BIN)/python -m hatchling build
	@$(BIN)/python -m twine check --strict dist/*

# Exact versions for every Python and system, by uv (https://docs.astral.sh/uv/pip/compile/); pip reads them.
lock: .venv/created
	@$(INSTALL) --upgrade uv
	@mkdir -p $(LOCK)
	@$(COMPILE) --extra dev --group build --output-file $(LOCK)/dev.txt
	@$(COMPILE) --group build --constraints $(LOCK)/dev.txt --output-file $(LOCK)/run.txt
	@$(COMPILE:pyproject.toml=) --group peers --constraints $(LOCK)/dev.txt --output-file $(LOCK)/peers.txt
	@$(COMPILE:pyproject.toml=) --group site --constraints $(LOCK)/dev.txt --output-file $(LOCK)/site.txt
	@$(COMPILE:pyproject.toml=) --group alone --no-deps --output-file $(LOCK)/alone.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist results

.venv/created:
	@command -v $(PYTHON) >/dev/null || { echo "clustersim needs Python 3.11 or newer: sudo apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "clustersim needs Python 3.11 or newer; point PYTHON at one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(NO_VENV)" >&2; exit 1; }
	@echo "Setting up .venv (once) ..." >&2
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml $(LOCK)/run.txt
	@$(INSTALL) --requirement $(LOCK)/run.txt
	@$(EDITABLE)
	@touch $@

.venv/installed-dev: .venv/created pyproject.toml $(LOCK)/dev.txt
	@$(INSTALL) --requirement $(LOCK)/dev.txt
	@$(EDITABLE)
	@touch $@ .venv/installed

.venv/installed-peers: .venv/installed-dev $(LOCK)/peers.txt $(LOCK)/alone.txt
	@$(INSTALL) --no-deps --requirement $(LOCK)/peers.txt --requirement $(LOCK)/alone.txt
	@touch $@

.venv/installed-site: .venv/installed-dev $(LOCK)/site.txt
	@$(INSTALL) --no-deps --requirement $(LOCK)/site.txt
	@touch $@
