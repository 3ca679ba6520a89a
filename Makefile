# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python tests/support/cpu_seconds.py $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25

.PHONY: setup demo check test test-slow bench docs clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing the pinned dependencies into .venv (about 6 GB with PyTorch; a few minutes) ..."
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	@rm -rf data/demo runs/demo
	@$(BIN)/pneumonia-fl data prepare --source synthetic:images=900 --out data/demo --sites 3 --size 64 --seed 7
	@$(BIN)/pneumonia-fl run fedavg --data data/demo --out runs/demo --rounds 5

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Every test is in one of the two; CI runs both.
test: setup
	@$(PYTEST) -m "not slow"

test-slow: setup
	@$(PYTEST) -m slow

# About an hour; `python -m bench NAME` for one of them, `--quick` to see that they run.
bench: setup
	@$(BIN)/python -m bench

docs: setup
	@$(BIN)/python scripts/make_docs.py

clean:
	rm -rf .venv build dist data/demo runs/demo .pytest_cache .mypy_cache .ruff_cache
