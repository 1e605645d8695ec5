# make play   walk through the shipped world in a browser
# make test   everything the tests need, then the tests
VENV ?= .venv
JOBS ?= 2
ARGS ?=
export VENV PYTHON TORCH

BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help play test lint lint-style lint-format lint-types lint-arrows format setup clean

help:
	@echo 'make play    set up what playing needs and serve the world to a browser (options: ARGS="--port 8000")'
	@echo 'make test    set up everything and run the tests (options: ARGS="tests/relic -k camera" JOBS=4)'
	@echo 'make lint    ruff, mypy and import-linter'
	@echo 'make format  rewrite the sources in the house style'
	@echo 'make setup   set up everything and run nothing'
	@echo 'make clean   remove the environment and the caches'

play:
	@tools/setup.sh play
	@PYTHONDONTWRITEBYTECODE= $(BIN)/relic play $(ARGS)

test: setup
	@tools/test.sh $(ARGS)

lint: lint-style lint-format lint-types lint-arrows

lint-style: setup
	$(BIN)/ruff check .

lint-format: setup
	$(BIN)/ruff format --check .

lint-types: setup
	$(BIN)/mypy

lint-arrows: setup
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup:
	@tools/setup.sh dev

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
