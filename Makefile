# The commands one types often. `bash tests/run.sh` is what CI runs.
#   make setup        the CPU environment, .venv
#   make train        the CPU example
#   make unit         unit tests only, seconds
#   make quick        lint, format, types, import contracts and unit tests, a minute
#   make lint         lint, format, types, import contracts
#   make test         everything, end-to-end included: minutes
#   make reference    docs/reference.md anew, after a setting or a metric changed
#   make bench        what judging costs beside its latency

SHELL := bash
BIN := $(or $(ROPD_VENV),.venv)/bin

.PHONY: setup train unit quick lint test reference bench

setup:
	source training/environment.sh && ropd_setup cpu

train:
	bash training/train.sh --config-name ropd_cpu

unit: setup
	$(BIN)/python -m pytest -q -n 2 tests/unit

quick:
	bash tests/run.sh --quick

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONPATH=verl $(BIN)/lint-imports --no-cache

test:
	bash tests/run.sh

reference: setup
	$(BIN)/python docs/reference.py

bench: setup
	$(BIN)/python -m benchmarks.judge
