.DEFAULT_GOAL := help
.PHONY: help setup run cluster test check bench bench-peers bench-pages bench-drift faults conformance format lock wheel clean
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
TEST_PROCESSES ?= 2

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

# Bytecode is written when a module is first imported: of most nobody needs any.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

setup: $(VENV)/locked ## Make the virtual environment from the locked requirements

$(VENV)/locked: $(VENV)/runs requirements/dev.txt
	@echo "Installing what tests and checks need as well."
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@# Here once: tests start many processes beside each other, which would all be slow.
	@$(BIN)/python -c 'import skops.io, webapp.app, webapp.intake.child'
	@touch $@

$(VENV)/runs: requirements/run.txt requirements/build.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "Python's venv is missing; install it: apt-get install python3-venv"; exit 1; }
	@echo "Installing the locked packages into $(VENV); this takes a minute or two the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

run: $(VENV)/runs ## Serve a demo model, ready for the first prediction
	@$(BIN)/modelport demo
	@exec $(BIN)/modelport serve --sign-in admin

cluster: setup ## Serve the demo by three replicas behind nginx, with PostgreSQL and Redis; CLUSTER="--port 9000"
	@exec $(BIN)/python -m scripts.cluster $(CLUSTER)

# Where statements differ most between SQLite and PostgreSQL: a minute of the whole suite.
ON_POSTGRES := $(wildcard $(patsubst %,tests/test_%*.py,\
	activation alerts counts drift_report erasure exports feedback jobs keys migrations predictions quality_report refusals registry retention \
	search traffic uploads users webhooks))

test: setup ## Run all tests, in a real browser too
	@sh scripts/test_packages.sh
	@sh scripts/tests.sh $(BIN)/python $(TEST_PROCESSES)
	@MODELPORT_TEST_DATABASE=postgresql sh scripts/tests.sh $(BIN)/python $(TEST_PROCESSES) $(ON_POSTGRES)

test-postgres: setup ## Run all tests again, with every database in PostgreSQL
	@sh scripts/test_packages.sh
	@MODELPORT_TEST_DATABASE=postgresql sh scripts/tests.sh $(BIN)/python $(TEST_PROCESSES)

check: setup ## Check format, lint, types, import contracts, templates, vendored files and licences
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/djlint templates --lint --quiet
	$(BIN)/python scripts/vendor.py check
	$(BIN)/python scripts/licences.py

bench: setup ## Measure what is promised to be fast, as ratios; BENCH="--only guide-16" measures one row
	$(BIN)/python -m benchmarks.goals --keep $(BENCH)
	$(BIN)/python -m benchmarks.report

bench-peers: setup ## The same against other servers, each installed into an environment of its own; takes an hour
	$(BIN)/python -m benchmarks.goals --keep --peers $(BENCH)
	$(BIN)/python -m benchmarks.report

bench-pages: setup ## Measure each page of the admin UI over a large database
	$(BIN)/python -m benchmarks.pages

bench-drift: setup ## Measure the rule of drift beside the guide's; fetches its data once, takes some minutes
	$(BIN)/python -m benchmarks.drift

faults: setup ## Try the faults that uploads, activation and a cluster must survive; prints figures and takes an hour
	$(BIN)/python -m tests.faults.mutations --count 100000 --seed 1
	$(BIN)/python -m pytest -o addopts="--strict-markers -ra" -s tests/faults

conformance: setup ## Ask the running server whatever its description allows, and what it does not; takes some minutes
	@sh scripts/test_packages.sh
	MODELPORT_CONFORMANCE_EXAMPLES=50 $(BIN)/python -m pytest -s tests/functional/test_openapi.py

format: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The lock files carry hashes and name no index: they are the same wherever packages come from.
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
	--python-version 3.11
# What an image holds.
EXTRAS := --extra dask --extra s3

lock: ## Lock the newest versions that pyproject.toml allows
	$(COMPILE) --upgrade $(EXTRAS) -o requirements/run.txt pyproject.toml >/dev/null
	$(COMPILE) --upgrade --extra dev -c requirements/run.txt -o requirements/dev.txt pyproject.toml >/dev/null
	grep -o 'pyarrow>=[0-9.]*' pyproject.toml | $(COMPILE) --upgrade -c requirements/run.txt -o requirements/parquet.txt - >/dev/null

lock-versions: ## Lock for images that serve files of other scikit-learn versions, as near to run.txt as these allow
	for minor in 1.6 1.7 1.8; do \
		cp requirements/run.txt requirements/sklearn-$$minor.txt; \
		$(BIN)/python scripts/old_versions.py requirements $$minor \
			| $(COMPILE) -o requirements/sklearn-$$minor.txt - >/dev/null || exit 1; \
	done

wheel: setup ## Build the wheel and the source distribution
	$(BIN)/python -m build --no-isolation

clean: ## Remove what was built; data stays
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
