# The commands of this project; `make help` lists them. Everything happens in .venv, which the first command makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed, so that it is installed again only when the list changes.
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check format clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 \t/' | expand -t 20

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("mlens needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

install: $(STAMP)  ## make .venv and install mlens with its development tools

demo: $(STAMP)  ## train and evaluate on the made-up sample: about three minutes on two cores
	$(BIN)/python train.py +experiment=demo

test: check  ## format, lint and type checks, then the tests that CI runs
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(STAMP)  ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

check: $(STAMP)  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and caches (not outputs/ and multirun/)
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
