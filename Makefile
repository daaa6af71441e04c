# make install | demo | test | test-slow | lint | wheelhouse | dist | clean       needs Python 3.11 or newer and make
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PATHS := -e "./export/edge" -e ".[dev]"
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow lint wheelhouse dist clean

help:
	@echo "make install     environment in .venv, cvtune and cvtune-edge in it"
	@echo "make demo        install, real photographs of solar cells, cvtune fit on them"
	@echo "make test        install, the whole suite (under 20 minutes)"
	@echo "make test-slow   the long campaigns"
	@echo "make lint        ruff and mypy"
	@echo "make wheelhouse  everything needed to install on a PC without internet"
	@echo "make dist        both wheels in dist/"

install: $(STAMP)

# One pip command for both paths: no index is asked for cvtune-edge. The stamp comes last, so a broken install is redone.
$(STAMP): pyproject.toml export/edge/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "cvtune needs Python 3.11 or newer, this is `$(PYTHON) -V`"; \
		  echo "hint: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PATHS)
	@touch $@

demo: install
	$(BIN)/python datasets/elpv.py
	@if grep -qs complete runs/demo/DONE; then $(BIN)/cvtune show runs/demo; \
	else rm -rf runs/demo && $(BIN)/cvtune fit datasets/elpv --preset defects --out runs/demo; fi

test: install
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-slow: install
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# setuptools builds in the source folder and would put what it left there last time into the next wheel.
wheelhouse: install
	rm -rf build export/edge/build
	$(BIN)/python -m pip wheel --wheel-dir wheelhouse "./export/edge" "."
	@echo "On the PC without internet, with the same system and Python version:"
	@echo "  python -m pip install --no-index --find-links wheelhouse cvtune"
	@echo "On the line PC, without torch:"
	@echo "  python -m pip install --no-index --find-links wheelhouse cvtune-edge"

dist: install
	rm -rf dist build export/edge/build
	$(BIN)/python -m build --wheel --no-isolation --outdir dist export/edge
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	@ls dist

clean:
	rm -rf .venv build dist wheelhouse export/edge/build *.egg-info export/edge/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
