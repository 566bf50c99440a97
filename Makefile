# Everything runs in $(VENV), which this file makes. A trial clone can borrow another clone's:
#   make test VENV=/path/to/.venv
# It is used as it is then, and nothing is installed into it.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
BORROWED := $(and $(wildcard $(BIN)/python),$(filter-out $(CURDIR)/%,$(abspath $(VENV))))
INSTALLED := $(if $(BORROWED),,$(VENV)/.installed)
# A borrowed environment has the package of the clone that made it: this clone's sources come first.
export PYTHONPATH := $(CURDIR):$(CURDIR)/cli$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: help demo test check format bench fuzz fixtures clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1 \t/'

# torch and torchvision come from one resolution: a torch installed first does not fit the
# torchvision that follows.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test,check]'
	touch $@

demo: $(INSTALLED) ## the main job on real images: transfer, head, groups, optimizer, accuracy
	$(BIN)/python examples/demo.py

test: $(INSTALLED) ## all tests
	$(BIN)/python -m pytest -q

check: $(INSTALLED) ## format, lint, strict types
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

format: $(INSTALLED) ## rewrite the sources in the project's format
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

bench: $(INSTALLED) ## speed and memory, paired against what people do today
	$(BIN)/python -m bench

fuzz: $(INSTALLED) ## the readers under atheris; FUZZ_SECONDS=60 for each of five targets
	$(BIN)/python -m fuzz

fixtures: $(INSTALLED) ## make the files under fixtures/ again
	$(BIN)/python fixtures/make.py

clean: ## remove the environment and every build output
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
