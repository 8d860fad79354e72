# Two commands on a fresh machine: `make demo` and `make test`. Everything goes into .venv; nothing needs a GPU.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2

.PHONY: help demo test test-triton check docs test-timm release clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

# setuptools warns about every editable install
EDITABLE := PYTHONWARNINGS=ignore $(INSTALL) --no-build-isolation --editable

# torch by its exact version first: an unpinned torch, or one asked for by another package, brings gigabytes of GPU libraries
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip setuptools wheel

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing (a minute or two; nothing goes outside $(VENV)) ..."
	$(INSTALL) $(TORCH)
	$(EDITABLE) '.[training,analysis]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what the tests need ..."
	$(EDITABLE) '.[dev]'
	@touch $@

# warnings are errors (not with --quiet, which drops them uncounted); the variable silences the theme's advertisement of its successor
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

demo: $(VENV)/.run  ## train on real digits, look inside, measure; ends with a report under runs/demo
	$(BIN)/tost demo

test: $(VENV)/.dev  ## every invariance of the operator, models, training, commands
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

test-triton: $(VENV)/.dev  ## every case of the GPU kernels by Triton's interpreter; `make test` takes every third
	TOST_EVERY_TEST=1 $(BIN)/python -m pytest -n $(WORKERS) tests/ops -k triton

check: $(VENV)/.dev  ## ruff, types, import rules, the site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py
	$(SITE)

docs: $(VENV)/.dev  ## the site, in site/, and every snippet of README and docs run
	$(SITE)
	$(BIN)/python -m pytest -n $(WORKERS) tests/test_docs.py tests/test_site.py tests/test_notebooks.py
	@echo "site/index.html, or with its search: $(BIN)/python -m http.server --directory site"

test-timm:  ## the timm integration, in an environment of its own (.venv-timm)
	bash tests/timm_env.sh

release: $(VENV)/.dev  ## wheel and sdist in dist/, installed elsewhere and tried; every extra resolved for every Python
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m pytest tests/test_release.py
	$(INSTALL) uv
	@for version in 3.10 3.11 3.12 3.13; do \
		$(BIN)/uv pip compile pyproject.toml --all-extras --python-version $$version --quiet --no-header --output-file build/$$version.txt \
		&& echo "Python $$version: $$(grep -c == build/$$version.txt) packages" || exit 1; \
	done

clean:  ## remove environments, caches and build output (runs/ stays)
	rm -rf .venv .venv-timm build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
