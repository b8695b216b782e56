# make train [ARGS="comm_overlap=tp4_h100"]   sets everything up and trains
# make test                                   sets everything up and runs all tests, slow ones too
# make test-fast | lint | golden | docs | bench | parity (minutes)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# One stamp per set of packages: done again when the pins or the package's declaration change.
$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	touch $@

.PHONY: train test test-fast lint golden docs bench parity
train: $(VENV)/.train
	@$(BIN)/python train.py $(ARGS)

PYTEST := $(BIN)/pytest -n 2 --dist loadgroup --durations=20
test: $(VENV)/.dev lint
	$(PYTEST)

test-fast: $(VENV)/.dev
	$(PYTEST) -m 'not slow'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy train.py
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python -m hydra_overlap.reference.rules_page docs/rules
	$(BIN)/cog -I . -r README.md docs/audit.md docs/coverage.md

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/compose.py
	$(BIN)/python benchmarks/start.py

parity: $(VENV)/.dev
	$(BIN)/python benchmarks/parity.py
