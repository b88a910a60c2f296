# Set-up needs Python >= 3.11, pip and make; every target makes its .venv where it is missing.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/python -m uv

.PHONY: demo test test-all lint bench clean

demo: .venv
	$(BIN)/aliascope measure efficientnet_lite0 efficientnet_lite0@blurpool:2 --images photos --out demo
	$(BIN)/aliascope compare demo/efficientnet_lite0 demo/efficientnet_lite0@blurpool-2

test: .venv/dev
	$(BIN)/python -m pytest

test-all: .venv/dev
	$(BIN)/python -m pytest -m ""

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: .venv/dev
	$(BIN)/python benchmarks/bench_measure.py

.venv: pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -e .
	touch .venv

.venv/dev: pyproject.toml | .venv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]'
	touch .venv/dev

clean:
	rm -rf .venv demo dist .pytest_cache .ruff_cache .hypothesis
