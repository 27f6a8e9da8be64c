# Two commands: `make demo` and `make test`. Each sets up .venv first, once, with what it needs and no more.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint bench evidence docs pictures clean

demo: $(VENV)/.demo
	$(BIN)/python -m budgetloader.bench.imagenet_mnv2 --out runs/demo

# Several at a time, because many tests wait; the tests of a file share what they set up. One thread of torch each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

test: $(VENV)/.ready lint
	$(PYTEST) -n 4 -m "$(TESTS)"

# All but whole benches, the examples' scripts, most trainings that are killed, and the statistics of thousands of draws.
# CI runs all: `make test TESTS=`.
TESTS ?= not long

# For everyone who edits: linters, types, and the quick tests of loader/ and models/, without FFCV, which is slow to
# import, the service, an S3 server and the benches.
check: $(VENV)/.ready lint
	$(PYTEST) -n 2 -m "not slow and not long" tests/loader tests/models tests/test_size.py tests/test_house.py --ignore tests/loader/service

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python -m pytest tests --benchmark-only --benchmark-enable

# Trains what is left of the record of docs/evidence.md, a process for each core; the same command goes on after a kill.
evidence: $(VENV)/.demo
	$(BIN)/python -m budgetloader.bench.evidence --runs 0
	for core in $$(seq $$(nproc)); do $(BIN)/python -m budgetloader.bench.evidence & done; wait
	$(BIN)/python -m budgetloader.bench.evidence --publish

$(VENV)/.demo: pyproject.toml tools/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash tools/setup.sh demo
	touch $@

$(VENV)/.ready: pyproject.toml tools/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash tools/setup.sh all
	touch $(VENV)/.demo $@

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

pictures: $(VENV)/.ready
	$(BIN)/python -m budgetloader.bench.pictures
	$(BIN)/python tools/house.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
