# Set-up needs Python >= 3.11, pip and make; every target makes its .venv where it is missing.
PYTHON ?= python3
# Each of the many processes of the tests would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
UV := $(BIN)/python -m uv

.PHONY: demo test test-all test-browser lint bench docs numbers clean

demo: .venv
	$(BIN)/aliascope study --out demo

test: .venv/dev
	$(BIN)/python -m pytest -n logical --dist loadgroup

test-all: .venv/dev
	$(BIN)/python -m pytest -n logical --dist loadgroup -m "" --jaxtyping-packages=aliascope,beartype.beartype

test-browser: .venv/dev
	$(BIN)/python -m pytest -n logical --dist loadgroup -m browser

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: .venv/dev
	$(BIN)/python benchmarks/bench_measure.py

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

numbers: .venv
	$(BIN)/python docs/render.py

.venv: pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -e .
	touch .venv

.venv/dev: pyproject.toml | .venv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[dev]'
	touch .venv/dev

.venv/docs: pyproject.toml | .venv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[docs]'
	touch .venv/docs

clean:
	rm -rf .venv demo dist site .pytest_cache .ruff_cache .hypothesis
