# Everything starts here: `make help`. Each target that needs the environment makes it first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
PROFILE ?= digits
JOBS ?= $(or $(MOMOS_JOBS),2)
BACKEND ?= local
BIN := .venv/bin
STAMP := .venv/.stamp

# Any characters may stand in these, $ too: recipes read them from the environment.
override SET := $(value SET)
override NAME := $(value NAME)
override NOTE := $(value NOTE)
override TRAINED := $(value TRAINED)
override PROFILE := $(value PROFILE)
export SET NAME NOTE TRAINED PROFILE

# Containers say this, and then every import compiles its library again: seconds a process.
unexport PYTHONDONTWRITEBYTECODE

# dvc.yaml says `python stages/...`: the environment's python comes first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.PHONY: help setup quick repro exp sweep regress bless readme mutants test stress bench use export track ui lint docs dag clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(STAMP) ## make the environment in .venv from requirements.txt (PYTHON=python3.11: the interpreter)
	@$(BIN)/python scripts/scm.py

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = sys.version_info >= (3, 11); ok or print("Python 3.11 or newer is needed, $(PYTHON) is", \
	    sys.version.split()[0], "(choose another: make setup PYTHON=python3.11)", file=sys.stderr); sys.exit(not ok)'
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@# compiling 25,000 files, most of which nothing imports, would take longer than unpacking them: those that
	@# stages and DVC import are compiled below, once, and not by several first stages side by side
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps devinterp==2.0.1 # a test's oracle: its optimiser alone
	@PYTHONPATH=scripts $(BIN)/python -W ignore -c "import dvc.cli.parser, dvc.repo, warm; warm.prepare()"
	@touch $(STAMP)

quick: setup ## the whole pipeline in 3 minutes, in scratch/quick: one seed, few methods; nothing else changes
	@$(BIN)/python scripts/quick.py --jobs "$(JOBS)"

repro: $(STAMP) ## run every stage that is not up to date, JOBS or MOMOS_JOBS (2) side by side
	@$(BIN)/python scripts/repro.py --jobs "$(JOBS)"

exp: $(STAMP) ## run with other settings as a DVC experiment: make exp SET='methods.momos_s2_c10.capacity=0.2' NAME=more
	@$(BIN)/python scripts/exp.py "$$SET" --name "$$NAME" --jobs "$(JOBS)" $(if $(filter 1,$(FORCE)),--force)

sweep: $(STAMP) ## the same in workspaces of their own: make sweep JOBS=8 (one or several per GPU), BACKEND=slurm
	@$(BIN)/python scripts/sweep.py --jobs $(JOBS) --backend $(BACKEND)

regress: setup ## compare the report's numbers with the expected ones; exit status 1 if one broke (REGRESS=--all)
	@$(BIN)/python scripts/regress.py $(REGRESS)

bless: setup ## make the report's numbers the expected ones, and print what changes
	@$(BIN)/python scripts/regress.py --bless
	@$(BIN)/python scripts/readme.py

readme: setup ## write the expected and the measured numbers into README.md and docs/
	@$(BIN)/python scripts/readme.py

mutants: setup ## break formulas one by one and see that `regress` notices (2 minutes)
	@$(BIN)/python scripts/mutants.py

test: setup ## run the tests, in two processes of one thread each
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

stress: setup ## kill stages at random moments (an hour), then try clusters and remotes: STRESS="--kills 5 --terms 1"
	@$(BIN)/python scripts/stress.py $(STRESS)
	@$(BIN)/python -m pytest -m stress

bench: setup ## measure the hot paths against plain baselines (10 minutes): BENCH="--only bdm", --quick, "--out DIR"
	@$(BIN)/python -m benchmarks $(BENCH)

use: setup ## write params.yaml from a profile: make use PROFILE=cifar10 (FORCE=1 drops edits of params.yaml)
	@$(BIN)/python scripts/use.py "$$PROFILE" $(if $(filter 1,$(FORCE)),--force)

export: setup ## write this report's runs for other reports to import: make export NAME=h200 NOTE="what readers should know"
	@$(BIN)/python scripts/export.py "$$NAME" --note "$$NOTE" $(if $(TRAINED),--trained "$$TRAINED")

track: setup ## add the runs that MLflow does not show yet
	@$(BIN)/python stages/track.py

ui: setup ## look at all runs in MLflow (http://127.0.0.1:5000)
	@$(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

lint: setup ## check the code: ruff check, ruff format --check, mypy over src, stages and scripts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: setup ## pages of the library's functions, from their docstrings, in build/api
	@$(BIN)/python scripts/api.py build/api

dag: setup ## print the pipeline as a mermaid picture
	@$(BIN)/dvc dag --collapse-foreach-matrix --md

clean: ## remove caches of tools; data, runs and the environment stay
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src stages scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
