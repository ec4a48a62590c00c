# PYTHON=…        the interpreter to make .venv with
# CONSTRAINTS=…   the file of tested versions; empty: versions of pip's choice
# ARGS=…          passed on to the command of quickstart and test
PYTHON ?=
CONSTRAINTS ?= constraints.txt
ARGS ?=
export PYTHON CONSTRAINTS

.PHONY: help quickstart setup test lint types soak clean

help:
	@echo "make quickstart   set everything up, then train an agent (ARGS='--set steps=10')"
	@echo "make test         set everything up, then lint, check types and run the tests (ARGS='-k sandbox')"
	@echo "make setup        set everything up for development, in .venv"
	@echo "make lint         ruff: rules and formatting"
	@echo "make types        mypy, strict"
	@echo "make soak         ten minutes of kill -9 and 100,000 requests at random against a server"
	@echo "make clean        remove .venv, builds and caches; runs/ stays"

quickstart:
	@scripts/setup.sh quickstart
	@.venv/bin/turnwise train quickstart $(ARGS)
	@echo "To have turnwise on the path:  . .venv/bin/activate"

setup:
	@scripts/setup.sh dev

lint: setup
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check

types: setup
	@.venv/bin/mypy
	@.venv/bin/mypy tests

test: export OMP_NUM_THREADS = 1
test: lint types
	@.venv/bin/pytest $(ARGS)

soak: export OMP_NUM_THREADS = 1
soak: setup
	@.venv/bin/python benchmarks/soak.py $(ARGS)
	@.venv/bin/pytest tests/envs/serving/test_server_fuzz.py --fuzz 100000

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
