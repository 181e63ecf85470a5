# `make train` and `make test` set up everything they need in .venv.
PYTHON ?= python3.11
RUN ?= runs/hat-tiny
export JAX_PLATFORMS ?= cpu

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt

.PHONY: train test check clean

train: .venv/installed  ## train a small model on the shipped Moby-Dick, evaluate it, show what it does (about six minutes)
	$(BIN)/python train.py configs/hat.py:moby --workdir $(RUN)
	$(BIN)/python -m hlm.evals.first_look $(RUN)

test: .venv/installed-dev  ## all tests
	$(BIN)/python -m pytest -n 2 -q

check: .venv/installed-dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf .venv runs

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml requirements.txt
	$(INSTALL) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable '.[dev]'
	touch $@
