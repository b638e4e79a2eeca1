# make help lists what there is. Everything runs in .venv, made by uv from the pins in requirements.txt.
.DEFAULT_GOAL := help
.PHONY: help env quickstart test test-fast kernels-compile lint format requirements clean

PYTHON := .venv/bin/python
# uv from the PATH, or one of our own in .uv
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv

# the stamp is made last, so an interrupted installation is done again
.venv/installed: requirements.txt pyproject.toml $(if $(findstring .uv/,$(UV)),$(UV))
	$(UV) venv --quiet --allow-existing --python 3.12 .venv
	$(UV) pip sync --quiet --python $(PYTHON) requirements.txt
	$(UV) pip install --quiet --python $(PYTHON) --no-deps --editable .
	@touch $@

env: .venv/installed ## the environment, as pinned

quickstart: env ## train the ladder, fit the law, draw the figures: about ten minutes on two cores
	$(PYTHON) -m experiments.cli run quickstart

test: env ## every test, the slow ones too, two files at a time
	$(PYTHON) -m pytest -m "slow or not slow" -n 2 --dist loadfile

test-fast: env ## the tests that take seconds
	$(PYTHON) -m pytest

# the chips' compilers, in an environment of their own
.venv/kernels/installed: .venv/installed
	$(UV) venv --quiet --allow-existing --python 3.12 .venv/kernels
	$(UV) pip install --quiet --python .venv/kernels/bin/python --constraint requirements.txt "jax[tpu]"
	$(UV) pip install --quiet --python .venv/kernels/bin/python --no-deps \
		$(shell sed -n 's/^jax==\(.*\)/jax-cuda13-plugin==\1 jax-cuda13-pjrt==\1/p' requirements.txt)
	@touch $@

kernels-compile: .venv/kernels/installed ## compile the kernels for TPUs and Hopper without either; needs ptxas
	.venv/kernels/bin/python -m kernels.compile_all

lint: env ## style, imports and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: env ## rewrite the code in the one style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

requirements: $(if $(findstring .uv/,$(UV)),$(UV)) ## resolve the pins anew
	$(UV) pip compile --quiet --python-version 3.12 --extra data --extra dev --extra tune --no-header --no-annotate \
		--output-file requirements.txt --upgrade pyproject.toml

clean: ## remove the environment; runs/ and data/ stay
	rm -rf .venv .uv .mypy_cache .ruff_cache
