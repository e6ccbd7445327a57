PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test soak bench lint proto clean

demo: $(STAMP)
	$(BIN)/plywire demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

soak: $(STAMP)
	PLYWIRE_SOAK=1 $(BIN)/python -m pytest -s tests/process/test_swap.py
	PLYWIRE_SOAK=1 $(BIN)/python -m pytest tests/live/test_lossy_kernel.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stubs in plywire/rpc are generated and kept in the repository; a test checks that they are fresh.
proto: $(STAMP)
	$(BIN)/python -m plywire.rpc.generate

clean:
	rm -rf $(VENV) *.egg-info build .pytest_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
