# On a fresh machine: `make report`, `make demo` and `make test`. Each sets up .venv first, the first two without tools for developers.
# While working: `make quick` (a minute), `make lint`, `make types`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: site release-check report demo example test quick documents notebooks lint types clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[data,dev]'
	touch $@

.venv/.usable: pyproject.toml constraints.txt
	test -e .venv/.installed || $(PYTHON) -m venv .venv
	test -e .venv/.installed || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[data,report]'
	touch $@

# From nothing to a report on a small trained SAE: report.html.
report: example
	$(BIN)/cvxsae audit example/activations.npy --sae example --stationarity 0.01 --report report.html

demo: .venv/.usable
	$(BIN)/cvxsae demo

example: .venv/.usable
	test -e example/activations.npy || $(BIN)/cvxsae example example

# Work is stolen in large parts, so that what a file prepares for its tests is seldom prepared twice.
test: .venv/.installed
	$(BIN)/python -m pytest -n auto --dist worksteal

# Neither slow tests nor the check of every annotated shape and type. Test files as pytest rewrites them are kept.
quick: .venv/.installed
	CVXSAE_UNCHECKED=1 PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/.cache/python \
	  $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

documents: .venv/.installed
	$(BIN)/python -m pytest -n auto --dist worksteal cvxsae tests/test_readme.py tests/test_documents.py

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/typos

types: .venv/.installed
	$(BIN)/mypy

# The pages as a site in site/, warnings as errors; open site/index.html. CVXSAE_SITE_EXECUTE=0 leaves notebooks as they are.
.venv/.documented: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

site: .venv/.documented
	$(BIN)/mkdocs build --strict --quiet

# Runs the notebooks and keeps what they show beside them: a few minutes. Tests run them with small sizes.
notebooks: .venv/.documented
	$(BIN)/python -m jupytext --quiet --to ipynb --execute --run-path docs/notebooks docs/notebooks/*.py

release-check:
	PYTHON=$(PYTHON) tests/release.sh

clean:
	rm -rf .venv .cache site demo example .pytest_cache .mypy_cache .ruff_cache .hypothesis
