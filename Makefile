# One index of verbs: `make` prints it.
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help

# The system's Python where it will do: distributions build theirs with all optimisations, and it
# counts two to three times as fast as one compiled without.
PYTHON ?= $(shell for python in /usr/bin/python3 python3; do \
  $$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && echo $$python && break; done)
INPUT ?=
PARTS ?= 5
KEYWORDS ?= INFO,WARN,ERROR,DEBUG
MODE ?= copy
FILES ?= 32
FAN_IN ?= 2

# Handed on in the environment and unexpanded, so that no quote or dollar in a name is the shell's.
export _INPUT := $(value INPUT)
export _PARTS := $(value PARTS)
export _KEYWORDS := $(value KEYWORDS)
export _MODE := $(value MODE)
export _FILES := $(value FILES)
export _FAN_IN := $(value FAN_IN)

# Without make's echo, and with nothing of make's in the environment of what it runs.
.SILENT:
unexport MAKEFLAGS

.PHONY: help
help: ## Print this.
	awk 'BEGIN { FS = ":.*## " } /^##@/ { print "\n" substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

##@ On this machine
.PHONY: run
run: .venv/run ## Count keywords: INPUT= PARTS= KEYWORDS= MODE=copy|range
	.venv/bin/python workers/run.py log-count \
	  --input "$$_INPUT" --parts "$$_PARTS" --keywords "$$_KEYWORDS" --mode "$$_MODE"

.PHONY: aggregate
aggregate: .venv/run ## Join files level by level: FILES= FAN_IN=
	.venv/bin/python workers/run.py aggregate --files "$$_FILES" --fan-in "$$_FAN_IN"

##@ Images
.PHONY: images
images: ## Build the three images with docker, podman or buildah: BASE= IMAGE_PREFIX= TAG=
	images/build.sh

##@ Development
.PHONY: test
test: check ## Everything, the real cluster included
	tests/run.sh

.PHONY: check
check: .venv/test ## Format, lint and types
	.venv/bin/ruff format --check --quiet . && .venv/bin/ruff check --quiet .
	for folder in workers tests/*/; do \
	  MYPYPATH=$$folder .venv/bin/mypy --explicit-package-bases $$folder; done
	.venv/bin/yamllint --strict manifests tests .yamllint.yaml
	git ls-files '*.sh' .ci/run | xargs .venv/bin/shellcheck -x

.PHONY: clean
clean: ## Remove what the local run and the tools left in this folder
	rm -rf .venv local build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A venv with a group of the dependencies in pyproject.toml.
.venv/run .venv/test: pyproject.toml
	[ -n '$(PYTHON)' ] || { echo 'no Python 3.11 or newer with venv here: install one, or set PYTHON to it' >&2; exit 2; }
	[ -x .venv/bin/pip ] || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade 'pip>=25.1'
	.venv/bin/pip install --quiet --group $(@F)
	touch $@
