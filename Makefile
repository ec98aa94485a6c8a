# The commands of this project; `make help` lists them. Everything happens in .venv, which the first command makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed, so that it is installed again only when the list changes.
STAMP := $(VENV)/.installed
# The lowest versions of Python and of all packages that pyproject.toml allows, in an environment of their own.
LOWEST_PYTHON ?= python3.11
LOWEST := .venv-lowest
LOWEST_STAMP := $(LOWEST)/.installed
LOWEST_EXTRAS := dev,lenskit,tensorboard,slurm
# Every package is used in some of these: about five minutes.
LOWEST_TESTS := \
	tests/comparison/test_comparison_report.py \
	tests/comparison/test_report_page.py \
	tests/data/test_archive.py \
	tests/data/test_behaviour_json.py \
	tests/data/test_csv_ratings.py \
	tests/data/test_movielens_100k.py \
	tests/data/test_movielens_csv.py \
	tests/data/test_movielens_dat.py \
	tests/data/test_stage.py \
	tests/engine/test_engine_models.py \
	tests/engine/test_engine_steps.py \
	tests/evaluation/test_baselines.py \
	tests/evaluation/test_evaluate.py \
	tests/evaluation/test_lenskit_models.py \
	tests/hostile/test_hostile_models.py \
	tests/hostile/test_hostile_overrides.py \
	tests/launcher/test_launcher_jobs.py \
	tests/launcher/test_launcher_slurm.py \
	tests/model/test_other_models.py \
	tests/packing/test_packing_rows.py \
	tests/plan/test_plan_command.py \
	tests/predict/test_predict_command.py \
	tests/prompt/test_prompt_golden.py \
	tests/prompt/test_prompt_rendering.py \
	tests/show/test_page.py \
	tests/test_overrides.py \
	tests/test_preflight.py \
	tests/test_train.py \
	tests/tracking/test_trackers.py \
	tests/training/test_journal.py

# Many processes of the tests import the same modules: compile these once, also where the shell says otherwise.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-thorough test-lowest check format docs clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 \t/' | expand -t 20

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("mlens needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	touch $(STAMP)

install: $(STAMP)  ## make .venv and install mlens with its development tools

demo: $(STAMP)  ## compare five strategies on a made-up sample: about five minutes on two cores
	$(BIN)/python train.py +experiment=demo

test: check  ## format, lint and type checks, then the tests that CI runs
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=10

test-slow: $(STAMP)  ## the slow tests: hours on two cores
	$(BIN)/python -m pytest -q -m slow --hypothesis-profile=thorough

test-thorough: $(STAMP)  ## the tests of `make test`, with 100 examples of every property
	$(BIN)/python -m pytest -q -n 2 --dist worksteal --hypothesis-profile=thorough

$(LOWEST_STAMP): pyproject.toml .ci/lowest_versions.py
	$(LOWEST_PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python .ci/lowest_versions.py $(LOWEST_EXTRAS) > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[$(LOWEST_EXTRAS)]'
	touch $(LOWEST_STAMP)

test-lowest: $(LOWEST_STAMP)  ## quick tests in .venv-lowest, with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -q -n 2 --dist worksteal $(LOWEST_TESTS)

check: $(STAMP)  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## build the site of the documents in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove .venv, .venv-lowest, site and caches (not outputs/ and multirun/)
	rm -rf $(VENV) $(LOWEST) site build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
