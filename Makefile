# Everything runs in .venv, made on first use; only Python (>= 3.11), pip and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIGHT := $(VENV)/.light
SITE := $(VENV)/.docs
SHARED ?= ../shared
IMAGE ?=
CODE := src tests benchmarks examples recipes docs/site docs/conf.py docs/__init__.py
# One test process for each processor, 4 at most; a file's tests stay in one process, for what they share, and files are
# handed out in their order, so that long ones do not come last. WORKERS=0 is one process.
WORKERS ?= logical

.PHONY: help install caption record test check format mutation train evaluate web docs release clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv and install clearcap with everything the tests need

$(LIGHT): pyproject.toml constraints.txt  # what captioning needs, and no torch
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $(LIGHT)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# timm's torchvision has no build beside the CPU torch: apart, for one test, or transformers would import it
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target $(VENV)/timm timm torchvision
	@touch $(LIGHT) $(STAMP)

$(SITE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $(LIGHT) $(SITE)

caption: $(LIGHT) ## caption IMAGE=photo (or folder); without IMAGE a public-domain photo
	@$(BIN)/clearcap caption "$(or $(IMAGE),src/clearcap/bench/photo.jpg)"

check: install ## lint, formatting and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

test: check ## every check and test
	$(BIN)/pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

format: install ## reformat the code
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

record: install ## after the bundled weights changed: their graphs, and the recording of what they say
	$(BIN)/python -m tests.recording --commit
	$(BIN)/python recipes/release.py --hashes

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
	PYTHON=$(BIN)/python node web/scripts/site.js web/model web/site

docs: $(SITE) ## run the pages' code, build the site in build/site, check its links (many minutes)
	$(BIN)/python -m docs.site

release: $(LIGHT) ## build, check and try what is published; TAG=1 tags it
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[release]'
	$(BIN)/python recipes/release.py $(if $(TAG),--tag)

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
