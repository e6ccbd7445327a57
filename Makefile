PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE := services/ip_js/node_modules/.installed

.PHONY: demo test soak bench lint proto node clean

demo: $(STAMP)
	$(BIN)/plywire demo

test: $(STAMP) $(if $(shell command -v npm),$(NODE))
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

soak: $(STAMP)
	PLYWIRE_SOAK=1 $(BIN)/python -m pytest -s tests/process/test_lab_swap.py tests/process/test_lab_survive.py
	PLYWIRE_SOAK=1 $(BIN)/python -m pytest -s tests/compose/test_compose_changes.py -k exchanged
	PLYWIRE_SOAK=1 $(BIN)/python -m pytest tests/sim/test_survive.py tests/sim/test_app_survives.py
	PLYWIRE_SOAK=1 $(BIN)/python -m pytest tests/live/test_lossy_kernel.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stubs in plywire/rpc are generated and kept in the repository; a test checks that they are fresh.
proto: $(STAMP)
	$(BIN)/python -m plywire.rpc.generate

# The npm packages of services/ip_js. Binaries come inside them; nothing is built, no script of theirs is run.
node: $(NODE)

clean:
	rm -rf services/ip_js/node_modules $(VENV) *.egg-info build .pytest_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

$(NODE): services/ip_js/package.json
	cd services/ip_js && npm install --no-package-lock --ignore-scripts --no-audit --no-fund --silent \
	  && touch node_modules/.installed || echo "npm gave no packages: the tests of services/ip_js are skipped"
