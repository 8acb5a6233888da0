# The commands of this repository: `make` prints the list.
# Make's special variables accept no values from outside.
override .RECIPEPREFIX :=
override .EXTRA_PREREQS :=
override SHELL := /bin/bash
# Make every variable of the command line plain text, also in the environment of the recipes. Otherwise
# make would expand it at each use, and run a $(shell ...) in it. The names of this file's variables
# begin with a dot: no environment and no setting has such a name.
$(foreach .name,$(.VARIABLES),$(if $(filter command,$(origin $(.name))), \
  $(eval override $(.name) := $$(value $(.name)))$(eval export $(.name))))

MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
override .SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := help
# Make would also expand these two from the environment. No rule needs a search for files.
override VPATH :=
override GPATH :=

# The settings. A recipe's shell reads NAME as "$$_NAME", and make reads it as $(value NAME): never
# write $(NAME), which expands a value from the environment. images/build.sh reads its settings from
# the environment, which has the unchanged values: they need no entry here.
override .settings := PYTHON WORK_DIR INPUT PARTS PARTS_PER_POD KEYWORDS MODE FILES FAN_IN \
  VERSION DIGESTS CASES QUICK FOLDER COLD MAP MAP_EXIT_OK MAP_SETTINGS PROCESS PROCESS_EXIT_OK REDUCE REDUCE_EXIT_OK \
  OUTPUT_DIR OUTPUT_SUFFIX FILES_AT_ONCE TOLERATED_FAILURES
PARTS ?= 5
PARTS_PER_POD ?= 1
KEYWORDS ?= INFO,WARN,ERROR,DEBUG
MODE ?= copy
FAN_IN ?= 2
FOLDER ?= /dev/shm
# override, because a make that started this make has set the variables too.
$(foreach .name,$(.settings),$(eval override export _$(.name) := $$(value $(.name))))

# No echo of commands, and no variable of make in the environment of the commands.
.SILENT:
unexport MAKEFLAGS

.PHONY: help
help: ## Print this list
	awk 'BEGIN { FS = ":.*## " } /^##@/ { print "\n" substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

##@ On this machine
# The dependencies of a run in a bucket, if WORK_DIR is a bucket.
override .oss := $(if $(filter oss://%,$(value WORK_DIR)),.venv/oss)

.PHONY: run
run: .venv/run $(.oss) ## Count keywords, or run the programs MAP= and REDUCE=: INPUT= PARTS= PARTS_PER_POD= KEYWORDS= MODE=copy|range|files WORK_DIR=oss://...
	.venv/bin/python workers/run.py log-count --work-dir "$$_WORK_DIR" \
	  --input "$$_INPUT" --parts "$$_PARTS" --parts-per-pod "$$_PARTS_PER_POD" --keywords "$$_KEYWORDS" --mode "$$_MODE" \
	  --map "$$_MAP" --map-exit-ok "$$_MAP_EXIT_OK" --map-settings "$$_MAP_SETTINGS" \
	  --reduce "$$_REDUCE" --reduce-exit-ok "$$_REDUCE_EXIT_OK" \
	  --output-dir "$$_OUTPUT_DIR" --output-suffix "$$_OUTPUT_SUFFIX" \
	  --files-at-once "$$_FILES_AT_ONCE" --tolerated-failures "$$_TOLERATED_FAILURES"

.PHONY: aggregate
aggregate: .venv/run $(.oss) ## Join files level by level, or run the programs PROCESS= and REDUCE=: INPUT=FOLDER/ FILES= FAN_IN= WORK_DIR=oss://...
	.venv/bin/python workers/run.py aggregate --work-dir "$$_WORK_DIR" \
	  --input "$$_INPUT" --files "$$_FILES" --fan-in "$$_FAN_IN" \
	  --process "$$_PROCESS" --process-exit-ok "$$_PROCESS_EXIT_OK" \
	  --reduce "$$_REDUCE" --reduce-exit-ok "$$_REDUCE_EXIT_OK"

##@ Images
.PHONY: images
images: .venv/sbom ## Build the three images with docker, podman or buildah, list their packages, and push if PUSH is set: PUSH=REGISTRY/FOLDER BASE= IMAGE_PREFIX= TAG=
	images/build.sh --sbom build/sbom

.PHONY: release
release: .venv/test ## Set the tag of the images, render every overlay, and print the checklist: VERSION= DIGESTS="split=sha256:... ..."
	set -f; .venv/bin/python manifests/release.py -- "$$_VERSION" $$_DIGESTS
	.venv/bin/python tests/manifests/bundle.py --update golden

##@ Development
.PHONY: test
test: $(if $(filter-out 0,$(value COLD)),,check) ## Run all tests, also on a real cluster; in a fresh clone without caches: COLD=1
	exec tests/$(if $(filter-out 0,$(value COLD)),cold,run).sh

.PHONY: test-oss
test-oss: .venv/test ## Run the tests of the workers in a real bucket: WORK_DIR=oss://BUCKET/PREFIX
	case $$_WORK_DIR in \
	  oss://*) TEST_WORK_DIR=$$_WORK_DIR .venv/bin/pytest tests/oss/test_bucket.py tests/workers tests/faults ;; \
	  *) echo 'skipped: set WORK_DIR=oss://BUCKET/PREFIX, OSS_REGION, OSS_ENDPOINT and credentials' ;; \
	esac

.PHONY: check
check: .venv/test ## Check format, lint and types
	.venv/bin/ruff format --check --quiet . && .venv/bin/ruff check --quiet .
	for folder in workers manifests tests/*/; do \
	  MYPYPATH=$$folder .venv/bin/mypy --explicit-package-bases $$folder; done
	.venv/bin/yamllint --strict manifests tests .yamllint.yaml
	git ls-files '*.sh' .ci/run | xargs .venv/bin/shellcheck -x

.PHONY: bench
bench: .venv/$(if $(value QUICK),peers,bench) ## Measure and write tests/bench/BENCHMARKS.md: CASES= QUICK=1 FOLDER=
	set -f; .venv/bin/python tests/bench/bench.py --install --folder="$$_FOLDER" \
	  $(if $(value QUICK),--size quick) -- $$_CASES

.PHONY: clean
clean: ## Remove the files of local runs and of the tools in this folder
	rm -rf .venv local build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A venv with a group of the dependencies in pyproject.toml. The default of PYTHON is the system's
# Python if it is new enough: distributions compile it with all optimizations, and it counts two to
# three times faster than a Python that is compiled without.
.venv/run .venv/sbom .venv/test .venv/peers .venv/bench: pyproject.toml
	[ -x .venv/bin/pip ] || { python=$$_PYTHON; for each in /usr/bin/python3 python3; do \
	    [ -n "$$python" ] || ! $$each -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	      2>/dev/null || python=$$each; done; \
	  [ -n "$$python" ] || { echo 'PYTHON must be Python 3.11 or newer with venv, found none: install it, or set PYTHON to its path' >&2; exit 2; }; \
	  "$$python" -m venv .venv; }
	.venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv/bin/python -m pip install --quiet --group $(notdir $@)
	touch $@

# oss2 and its dependencies, with the versions and hashes of the images.
.venv/oss: images/oss2.lock.txt | .venv/run
	.venv/bin/python -m pip install --quiet --require-hashes --no-deps --use-pep517 --requirement $<
	touch $@
