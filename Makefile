# Everything here works on a fresh clone, in any order, and costs nothing to repeat.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

demo: .venv/fisher  ## the Fisher information of a real training run, as a table and a page in demo-report/
	$(BIN)/fisher demo demo-report

test: .venv/dev  ## every kind of test, and of each list a seeded part: six minutes on two cores
	$(BIN)/python -m pytest -n auto -m "not long and not ci"

test-ci: .venv/dev  ## all tests, and of the long lists a seeded part
	$(BIN)/python -m pytest -n auto

test-oldest: .venv-oldest/made  ## the tests, or those in TESTS, with the oldest supported libraries
	.venv-oldest/bin/python -m pytest -n auto -m "not long and not ci" \
		-W ignore::DeprecationWarning -W ignore::FutureWarning $(TESTS)

test-long: .venv/dev  ## the full counts of the long lists
	$(BIN)/python -m pytest -n auto -m long

check: .venv/dev  ## verify format, style, types and documents; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/cog --check -I docs README.md docs/*.md

format: .venv/dev  ## repair format and style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/dev  ## write what the documents take from the code, and the picture of the README
	@mkdir -p demo-report
	$(BIN)/fisher analyze sample_checkpoints/digits-clean --quiet -o demo-report/digits-clean.csv
	$(BIN)/fisher plot demo-report/digits-clean.csv --what traces --width two-columns --force -o docs/images/digits-clean.svg
	$(BIN)/cog -r -I docs README.md docs/*.md

notebook: .venv/dev  ## execute docs/notebook.ipynb anew
	$(BIN)/python docs/execute.py docs/notebook.ipynb

bench: .venv/bench  ## traces and eigenvalues beside their peers, products, checks, estimators, ranks, scaling, memory, a GPU: into benchmarks/
	$(BIN)/python -m benchmarks.engine --trained --write
	$(BIN)/python -m benchmarks.spectrum --large --write
	$(BIN)/python -m benchmarks.products --write
	$(BIN)/python -m benchmarks.checks --write
	$(BIN)/python -m benchmarks.leading_scores --write
	$(BIN)/python -m benchmarks.estimators --write
	$(BIN)/python -m benchmarks.ranks --write
	$(BIN)/python -m benchmarks.scaling --write
	$(BIN)/python -m benchmarks.gpu --write
	$(BIN)/python -m benchmarks.resident
	$(BIN)/python -m benchmarks.start --write

samples: .venv/fisher  ## train the networks in sample_checkpoints/ again
	$(BIN)/python sample_checkpoints/make.py

clean:  ## remove what the targets above have made
	rm -rf .venv .venv-oldest demo-report .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fisher needs Python 3.11 or later: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/fisher: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[report]'
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/fisher $@

.venv/bench: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch .venv/fisher .venv/dev $@

.venv-oldest/made: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/oldest.txt \
		--editable '.[report,xlsx]' pytest pytest-xdist hypothesis scikit-learn h5py duckdb
	@touch $@

.PHONY: help demo test test-ci test-oldest test-long check format docs notebook bench samples clean
