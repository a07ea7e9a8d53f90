# Everything runs in .venv, made on first use; only Python (>= 3.11), pip and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHARED ?= ../shared
IMAGE ?=

.PHONY: help install caption test check format mutation train evaluate web clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv and install clearcap with everything the tests need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# timm's torchvision has no build beside the CPU torch: apart, for one test, or transformers would import it
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target $(VENV)/timm timm torchvision
	@touch $(STAMP)

caption: install ## caption IMAGE=photo (or folder); without IMAGE a public-domain photo
	@$(BIN)/clearcap caption $(if $(IMAGE),"$(IMAGE)","$$($(BIN)/python -c 'import matplotlib; print(matplotlib.get_data_path())')/sample_data/grace_hopper.jpg")

check: install ## lint, formatting and types
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy

test: check ## every check and test
	$(BIN)/pytest

format: install ## reformat the code
	$(BIN)/ruff check --fix src tests benchmarks examples
	$(BIN)/ruff format src tests benchmarks examples

mutation: install ## mutate the core and see which mutants its tests miss (hours; goes on where it stopped)
	$(BIN)/python -m tests.mutation

train: install ## train the compact preset (see docs/training.md for the stages before)
	$(BIN)/clearcap train compact text.source=runs/text vision.source=runs/distill/encoder.safetensors \
	    data.corpus=flickr8k:$(SHARED)/data/flickr8k:train --out runs/compact

evaluate: install ## score the bundled model on the Flickr8k dev split
	$(BIN)/clearcap evaluate --model default --data flickr8k:$(SHARED)/data/flickr8k:dev

web: install ## make web/site, the page that captions in the browser (needs node and npm)
	cd web && ONNXRUNTIME_NODE_INSTALL=skip npm ci --no-audit --no-fund
	$(BIN)/clearcap export default web/model --web
	node web/scripts/site.js web/model web/site

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
