# Everything happens in this folder: the virtual environment in .venv, all else in .dynapod.
# Needs python3 (3.11 or newer) with its venv module, git and make. `make PYTHON=/path/to/python3` takes another one.
PYTHON ?= python3
# Extra arguments for pytest, and which tests: make test TESTS=tests/runner PYTEST_ARGS=-x
# Tests mostly wait (for a lease to lapse, a process to start), so more of them run at a time than there are cores.
PYTEST_ARGS ?= -n 4 --maxschedchunk 2
TESTS ?= tests
# Cluster tests mostly wait for pods: three at a time also where there are two cores. A file's tests share its servers.
CLUSTER_ARGS ?= -n 3 --dist loadfile --durations 15
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
WORK := .dynapod
SOURCES := adapters benchmarks devcluster docker gateway runner runner_spec worker tests examples

# Tests and tools see an empty home folder: nobody's git or pip configuration decides whether they pass.
# Not for making the environment itself: a python3 that is a shim of a version manager finds itself through HOME.
QUIET_HOME := HOME=$(CURDIR)/$(WORK)/home XDG_CONFIG_HOME= XDG_CACHE_HOME= XDG_STATE_HOME=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo foreign test test-cluster chaos chaos-cluster kill-points mutations model bench bench-start check format lock images test-images clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# From the lock alone, with hashes, so that today's environment is also next year's. --clear: no leftovers of an older lock.
$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) must be Python 3.11 or newer with venv (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Setting up $(VENV) (once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(WORK)/home
	@$(QUIET_HOME) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir \
		--require-hashes -r requirements/dev.txt
	@$(QUIET_HOME) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir \
		--no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## Run dynapod.yaml for real on this machine, then install the wheel it built
	@rm -rf $(WORK)/artifacts $(WORK)/proof
	$(BIN)/dynapod run dynapod.yaml --state $(WORK)/state --output $(WORK)/artifacts
	@$(BIN)/python -m venv $(WORK)/proof
	@$(WORK)/proof/bin/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
		$(WORK)/artifacts/wheel/dist/*.whl
	@echo "The wheel, installed into an empty environment:"
	@cd $(WORK)/proof && PYTHONPATH="$$(../../$(BIN)/python -c 'import click; print(*click.__path__[0].rsplit("/", 1)[:1])')" \
		bin/dynapod --version

foreign: $(STAMP) ## Build and test three projects from PyPI, one with a bug in it, and compare with what is expected
	$(BIN)/python examples/foreign/run.py

test: $(STAMP) ## Run all tests; those that need a cluster skip themselves, and say so
	@mkdir -p $(WORK)/home
	env -u KUBECONFIG $(QUIET_HOME) $(BIN)/python -m pytest -rs $(PYTEST_ARGS) $(TESTS)

test-cluster: $(STAMP) ## Run the tests that need a Kubernetes cluster, the one that KUBECONFIG names
	@test -n "$$KUBECONFIG" || { echo "make: set KUBECONFIG to a cluster's credentials file" >&2; exit 1; }
	$(BIN)/python -m pytest -rs -m cluster $(CLUSTER_ARGS) $(TESTS)

# docs/chaos.md tells what these prove, and how to repeat what they found.
# Extra arguments: make chaos CHAOS_ARGS='--seed 7 --jobs 2000 --kills 50 --seconds 90'
chaos: $(STAMP) ## Ten minutes of everything going wrong at once, by seed: 20,000 jobs, 500 killed workers, every promise checked
	@mkdir -p $(WORK)/home
	env -u KUBECONFIG $(QUIET_HOME) $(BIN)/python -m tests.chaos $(CHAOS_ARGS)

# CHAOS_BREAK kills the component {name}, CHAOS_MEND starts what is down, CHAOS_AUDIT prints the audit log; each may be empty.
chaos-cluster: $(STAMP) ## The same with real pods, and thousands on a fake node, on the cluster of KUBECONFIG
	@test -n "$$KUBECONFIG" || { echo "make: set KUBECONFIG to a cluster's credentials file" >&2; exit 1; }
	$(BIN)/python -m tests.chaos_cluster --break '$(CHAOS_BREAK)' --mend '$(CHAOS_MEND)' --audit '$(CHAOS_AUDIT)' \
		$(CHAOS_CLUSTER_ARGS)

kill-points: $(STAMP) ## Kill the worker before and after every point where it awaits anything (about 10 minutes)
	@mkdir -p $(WORK)/home
	env -u KUBECONFIG $(QUIET_HOME) $(BIN)/python -m tests.kill_points $(KILL_POINT_ARGS)

# One of them: make mutations MUTATION_ARGS='--only delete-before-commit'
mutations: $(STAMP) ## Sabotage the product in a copy, one edit at a time: the tests must notice each (docs/mutations.md)
	@mkdir -p $(WORK)/home
	env -u KUBECONFIG $(QUIET_HOME) $(BIN)/python -m tests.mutations $(MUTATION_ARGS)

# Larger bounds: make model MODEL_ARGS='1 1 1' (jobs, faults, failovers)
model: $(STAMP) ## Explore every order in which claim, lease, adoption, creation, commit and deletion can happen
	env -u KUBECONFIG $(BIN)/python -m tests.model $(MODEL_ARGS)

# make bench BENCH_ARGS='--only a,h --scale 0.1 --json'; with a cluster that has a fake node: KUBECONFIG (docs/performance.md)
bench: $(STAMP) ## What dynapod costs and how fast it is, beside what it is compared with, in one table
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

# Extra arguments: make bench-start BENCH_ARGS='--runs 20 --json'
bench-start: $(STAMP) ## Time from submit to the user's first line, beside kubectl apply, on the cluster of KUBECONFIG
	@$(BIN)/python -m benchmarks.start $(BENCH_ARGS)

check: $(STAMP) ## Lint, formatting, types, layers: what CI checks
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/mypy docker/rootfs.py
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and fix what can be fixed by a machine
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Needs uv (https://docs.astral.sh/uv). Upgrade one package: make lock LOCK_ARGS='--upgrade-package redis'
LOCK := uv pip compile --quiet --generate-hashes --universal --no-emit-index-url --python-version 3.11 \
	--custom-compile-command "make lock" $(LOCK_ARGS)
lock: ## Lock the dependencies of pyproject.toml anew (needs uv)
	$(LOCK) pyproject.toml -o requirements/runtime.txt
	$(LOCK) pyproject.toml --group test --group check --group build -o requirements/dev.txt
	$(LOCK) --group build --constraint requirements/dev.txt -o requirements/build.txt

# See docs/images.md. IMAGE_TOOL: docker, podman or buildah; IMAGE_ARGS: more arguments for its `build`.
IMAGE_TOOL ?= docker
IMAGE_ARGS ?=
IMAGE_PREFIX ?= dynapod-
IMAGE_TAG ?= $(VERSION)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' runner_spec/version.py)
# $(1): folder of the Dockerfile, $(2): name of the image, $(3): its own arguments
build-image = $(IMAGE_TOOL) build --build-arg BASE=$(BASE) $(3) $(IMAGE_ARGS) \
	--file $(1)/$(2).Dockerfile --tag $(IMAGE_PREFIX)$(2):$(IMAGE_TAG) .
need-base = @test -n "$(BASE)" || { echo "make: set BASE to an image of Debian 12 with python3, pip, venv, git and \
	ca-certificates: make $@ BASE=name:tag" >&2; exit 1; }

images: ## Build the images of runner and worker: make images BASE=name:tag (docs/images.md)
	$(need-base)
	$(call build-image,docker,runner,--build-arg VERSION=$(VERSION))
	$(call build-image,docker,worker,--build-arg VERSION=$(VERSION))

test-images: ## Build the images that the cluster tests use as jobs and services: make test-images BASE=name:tag
	$(need-base)
	$(call build-image,tests/images,job)
	$(call build-image,tests/images,services)

clean: ## Remove everything that make and dynapod made here
	rm -rf $(VENV) $(WORK) build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache
