# make demo | test | check | test-slow: each sets up what it needs.
# TORCH: on a CPU-only Linux machine point pip to PyTorch's CPU wheels, since the plain pin may bring
# the CUDA build: make TORCH="torch==2.13.0 --index-url <PyTorch's CPU wheel index>" demo

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: setup demo test test-slow check docs handbook clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[ocr]" --group dev
	touch $@

demo: setup
	$(BIN)/ecg-llm demo demo-study

test: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python docs/generate.py --check
	$(BIN)/python handbook/typeset.py --check

docs: setup
	$(BIN)/python docs/generate.py

handbook: setup
	$(BIN)/python handbook/typeset.py

clean:
	rm -rf $(VENV) demo-study build dist .mypy_cache .pytest_cache .ruff_cache
