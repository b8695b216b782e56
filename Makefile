# make train [ARGS="comm_overlap=tp4_h100"]   sets everything up and trains
# make test                                   sets everything up and runs all tests, slow ones too
# make site                                   builds the documentation site, build/site
# make test-fast | lint | golden | docs | bench | parity (minutes)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Where it is set, each of the many processes that a run or the tests start compiles the whole package anew: half a second.
unexport PYTHONDONTWRITEBYTECODE

# One stamp per set of packages: done again when the pins or the package's declaration change.
$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev,docs]'
	touch $@

# An environment of its own: the site is built from option files and declarations, without torch.
SITE := $(VENV)-site
$(SITE)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

.PHONY: train test test-fast lint golden docs site bench parity
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
	$(BIN)/cog -I . -r README.md docs/index.md docs/your-script.md docs/audit.md docs/coverage.md
	$(BIN)/python docs/pictures.py

# Strict: a page without a place, and a link or an anchor that leads nowhere, fail it. CI builds it in tests/docs/test_site.py.
site: $(SITE)/.docs
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --quiet
	@echo "to read it: $(PYTHON) -m http.server -d build/site 8000, then http://localhost:8000"

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/compose.py
	$(BIN)/python benchmarks/start.py

parity: $(VENV)/.dev
	$(BIN)/python benchmarks/parity.py
