# `make help` lists the targets. Needs Python 3.11 or newer, git and a C compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIPELINE := infra/requirements/pipeline.txt
DEV := infra/requirements/dev.txt
DOCS := infra/requirements/docs.txt
# Airflow cannot share an environment with the pipeline: they need different versions of attrs.
AIRFLOW := .venv-airflow
# uv does not read pip's setting for local wheels.
UV := UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/uv
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test coverage check docs bench mlflow airflow demo-airflow clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Lethe needs Python 3.11 or newer: make PYTHON=/path/to/python3.11'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^uv==' infra/requirements/tools.txt)"

# Compiled once here: each stage is a process of its own and would else compile its imports anew
# wherever Python may not write them (PYTHONDONTWRITEBYTECODE, read-only images).
$(VENV)/ready: $(PIPELINE) $(DEV) $(DOCS) pyproject.toml | $(VENV)/bin/uv
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python -r $(PIPELINE) -r $(DEV) -r $(DOCS)
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

$(AIRFLOW)/ready: infra/requirements/airflow.txt | $(VENV)/bin/uv
	$(PYTHON) -m venv --without-pip $(AIRFLOW)
	$(UV) pip install --quiet --compile-bytecode --python $(AIRFLOW)/bin/python -r $<
	@touch $@

demo: $(VENV)/ready ## the environment, a sample clinic, the whole pipeline, a summary
	@lethe key
	@test -e data/clinic.db || lethe sample
	@lethe run

# What starts hardly a process, and so answers soon: all that FAST=1 runs.
QUICK := $(addprefix tests/,config core data docs/test_words.py people privacy registration reports)
# Two more than there are cores, as some wait: for a server, a schedule, a lock; each takes 1 GB of
# memory, the one that prices privacy 2.5. Each is a fork of a process that has collected the tests,
# but for coverage, which begins with an interpreter. No test looks at what a power cut would leave,
# so none waits for the disk where Debian's `eatmydata` is there.
WORKERS = $(shell python -c 'import os; print(len(os.sched_getaffinity(0)) + 2)')
PYTEST = pytest -n $(WORKERS) --dist worksteal $(if $(FAST),$(QUICK))
HURRY := $(shell command -v eatmydata)
export OMP_NUM_THREADS ?= 1

test: $(VENV)/ready $(if $(FAST),,$(AIRFLOW)/ready) ## every test; FAST=1 for what answers in three minutes
	@$(HURRY) python -m $(PYTEST) -p tests.warm.workers

# Not the schedules: Airflow runs in an environment of its own.
coverage: $(VENV)/ready ## branch coverage of lethe by every test but the schedules'; FAST=1 as above
	@coverage erase
	@$(HURRY) coverage run -m $(PYTEST) --ignore=tests/dags
	@coverage combine --quiet
	@coverage report

check: $(VENV)/ready ## style, types, and which package may import which
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-logo --no-cache

docs: $(VENV)/ready ## the documentation as a site, into site/html; a dead link is an error
	@python -m docs site

bench: $(VENV)/ready ## measure the figures that the README quotes; ONLY=step,memory for a part
	@python -m benchmarks $(if $(ONLY),--only $(ONLY))

mlflow: $(VENV)/ready ## browse the registry on this machine
	@MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri sqlite:///mlflow.db --port 5000

airflow: $(VENV)/ready $(AIRFLOW)/ready ## run the schedules on this machine: training, and the erasures
	@infra/airflow.sh

demo-airflow: $(VENV)/ready $(AIRFLOW)/ready ## somebody asks to be forgotten, and Airflow does it while you watch
	@python infra/demo_airflow.py

clean: ## remove the environments; data, keys and models stay
	rm -rf $(VENV) $(AIRFLOW) .pytest_cache .mypy_cache .ruff_cache .hypothesis site
