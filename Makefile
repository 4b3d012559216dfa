# All commands use .venv. It is created on first use, and updated when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install train test test-slow lint docs onnx format clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20
	@echo '  ARGS="..." adds options: make train ARGS="model=mlp trainer.max_epochs=2"'

install: $(READY)  ## create .venv and install the package with the development tools

train: $(READY)  ## train and test the default network, and print where the results are
	@$(BIN)/python -m mnist_cls.train $(ARGS)

test: $(READY)  ## run the tests not marked slow, in two processes with one thread each
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-slow: $(READY)  ## run the tests marked slow
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m slow $(ARGS)

lint: $(READY)  ## check style, types and import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(READY)  ## build the documentation into site/; fails on a broken link or a missing docstring
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)
	@echo 'site/index.html; with the search: $(BIN)/python -m http.server --directory site'

onnx: $(READY)  ## export the packaged weights to ONNX again
	@for name in accurate autoencoder conditional image_classifier; do $(BIN)/python -m mnist_cls.export \
	  checkpoint=$$name output=src/mnist_cls/checkpoints/packaged/$$name.onnx | grep checked || exit; done

format: $(READY)  ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove .venv, caches and build results, but not outputs/
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"Python 3.10 or newer is needed, found {sys.version.split()[0]}; select one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
