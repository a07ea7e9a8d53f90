# Everything runs in .venv, made on first use; only Python (>= 3.11), pip and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SHARED ?= ../shared
IMAGE ?=
CODE := src tests benchmarks examples recipes
# One test process for each processor, 4 at most; a file's tests stay in one process, for what they share, and files are
# handed out in their order, so that long ones do not come last. WORKERS=0 is one process.
WORKERS ?= logical

.PHONY: help install caption test check format mutation train evaluate clean

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
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

test: check ## every check and test
	$(BIN)/pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

format: install ## reformat the code
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

mutation: install ## mutate the core and see which mutants its tests miss (hours; goes on where it stopped)
	$(BIN)/python -m tests.mutation

train: install ## train the compact preset (see docs/training.md for the stages before)
	$(BIN)/clearcap train compact text.source=runs/text vision.source=runs/distill/encoder.safetensors \
	    data.corpus=flickr8k:$(SHARED)/data/flickr8k:train --out runs/compact

evaluate: install ## score the bundled model on the Flickr8k dev split
	$(BIN)/clearcap evaluate --model default --data flickr8k:$(SHARED)/data/flickr8k:dev

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
