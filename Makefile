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
WORK_DIR ?=
INPUT ?=
PARTS ?= 5
KEYWORDS ?= INFO,WARN,ERROR,DEBUG
MODE ?= copy
FILES ?= 32
FAN_IN ?= 2
CASES ?=
QUICK ?=
FOLDER ?= /dev/shm
VERSION ?=
DIGESTS ?=

# Handed on in the environment and unexpanded, so that no quote or dollar in a name is the shell's.
export _WORK_DIR := $(value WORK_DIR)
export _INPUT := $(value INPUT)
export _PARTS := $(value PARTS)
export _KEYWORDS := $(value KEYWORDS)
export _MODE := $(value MODE)
export _FILES := $(value FILES)
export _FAN_IN := $(value FAN_IN)
export _CASES := $(value CASES)
export _FOLDER := $(value FOLDER)
export _VERSION := $(value VERSION)
export _DIGESTS := $(value DIGESTS)

# Without make's echo, and with nothing of make's in the environment of what it runs.
.SILENT:
unexport MAKEFLAGS

.PHONY: help
help: ## Print this.
	awk 'BEGIN { FS = ":.*## " } /^##@/ { print "\n" substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

##@ On this machine
# What it takes to work in a bucket, where one is asked for.
OSS := $(if $(filter oss://%,$(value WORK_DIR)),.venv/oss)

.PHONY: run
run: .venv/run $(OSS) ## Count keywords: INPUT= PARTS= KEYWORDS= MODE=copy|range WORK_DIR=oss://...
	.venv/bin/python workers/run.py log-count --work-dir "$$_WORK_DIR" \
	  --input "$$_INPUT" --parts "$$_PARTS" --keywords "$$_KEYWORDS" --mode "$$_MODE"

.PHONY: aggregate
aggregate: .venv/run $(OSS) ## Join files level by level: FILES= FAN_IN= WORK_DIR=oss://...
	.venv/bin/python workers/run.py aggregate --work-dir "$$_WORK_DIR" --files "$$_FILES" --fan-in "$$_FAN_IN"

##@ Images
.PHONY: images
images: ## Build the three images with docker, podman or buildah: BASE= IMAGE_PREFIX= TAG=
	images/build.sh

.PHONY: release
release: .venv/test ## Set the images' tag and render every overlay: VERSION= DIGESTS="split=sha256:... ..."
	.venv/bin/python manifests/release.py "$$_VERSION" $$_DIGESTS
	for each in tests/manifests/golden/*.yaml; do \
	    cp "build/release/fanfold-$$(basename "$$each" .yaml)-$$_VERSION.yaml" "$$each"; done

##@ Development
.PHONY: test
test: check ## Everything, the real cluster included
	tests/run.sh

.PHONY: test-oss
test-oss: .venv/test ## The tests of the workers, in a real bucket: WORK_DIR=oss://BUCKET/PREFIX
	case $$_WORK_DIR in \
	  oss://*) TEST_WORK_DIR=$$_WORK_DIR .venv/bin/pytest tests/oss/test_bucket.py tests/workers tests/faults ;; \
	  *) echo 'skipped: set WORK_DIR=oss://BUCKET/PREFIX, OSS_REGION, OSS_ENDPOINT and credentials' ;; \
	esac

.PHONY: check
check: .venv/test ## Format, lint and types
	.venv/bin/ruff format --check --quiet . && .venv/bin/ruff check --quiet .
	for folder in workers manifests tests/*/; do \
	  MYPYPATH=$$folder .venv/bin/mypy --explicit-package-bases $$folder; done
	.venv/bin/yamllint --strict manifests tests .yamllint.yaml
	git ls-files '*.sh' .ci/run | xargs .venv/bin/shellcheck -x

.PHONY: bench
bench: .venv/$(if $(QUICK),peers,bench) ## Measure, and write tests/bench/BENCHMARKS.md: CASES= QUICK=1 FOLDER=
	.venv/bin/python tests/bench/bench.py --install --folder "$$_FOLDER" \
	  $(if $(QUICK),--size quick) -- $$_CASES

.PHONY: clean
clean: ## Remove what the local run and the tools left in this folder
	rm -rf .venv local build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A venv with a group of the dependencies in pyproject.toml.
.venv/run .venv/oss .venv/test .venv/peers .venv/bench: pyproject.toml
	[ -n '$(PYTHON)' ] || { echo 'no Python 3.11 or newer with venv here: install one, or set PYTHON to it' >&2; exit 2; }
	[ -x .venv/bin/pip ] || $(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade 'pip>=25.1'
	.venv/bin/pip install --quiet --group $(@F)
	touch $@
