# Few verbs. `make demo` needs only Python 3, make and git, `make test` Go too: what else they need is installed or built,
# but for the system's packages where we are not root (requirements/system.sh names them).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# Where NVIDIA's driver is SGLang gets all that it wants on a GPU, another 5 GB.
SGLANG := requirements/$(if $(shell command -v nvidia-smi),sglang-cuda.txt,sglang.txt)
UV := $(or $(shell command -v uv),.cache/uv/bin/uv)
export OMP_NUM_THREADS ?= 1
# Nothing here talks to a hub unless a job names one.
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help setup testbed lock demo demo-cluster test test-full fmt check generate verify bench clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## the pinned environment in .venv (Python 3.12)

$(VENV)/.ready: requirements/requirements.lock $(SGLANG) pyproject.toml .python-version
	@requirements/system.sh $(UV)
	@command -v $(UV) >/dev/null || { python3 -m venv .cache/uv && .cache/uv/bin/pip install -q uv; }
	@test -x $(BIN)/python || $(UV) venv -q $(VENV)
	@echo "setup: installing the pinned environment into $(VENV) (about 6 GB the first time)"
	@$(UV) pip install -q --python $(BIN)/python --no-deps --compile-bytecode -r requirements/requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --compile-bytecode -r $(SGLANG)
	@$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

testbed: setup ## the programs of a Kubernetes cluster, found or built (15 minutes the first time on two cores)
	@$(BIN)/python tests/testbed/programs.py control tools node
	@$(BIN)/python tests/testbed/node.py

lock: export LC_ALL := C
lock: ## renew requirements/requirements.lock from requirements.in, and what SGLang wants beyond it on GPUs
	$(UV) pip compile -q --no-annotate --no-header --no-emit-index-url --python-version 3.12 requirements/requirements.in -o requirements/requirements.lock
	$(UV) pip compile -q --no-annotate --no-header --no-emit-index-url --python-version 3.12 --python-platform x86_64-manylinux_2_35 \
	  --override requirements/requirements.lock requirements/sglang.txt | sort | comm -13 <(sort requirements/requirements.lock) - > requirements/sglang-cuda.txt

demo: setup ## distil the arithmetic student on this machine (about 3 minutes on two cores)
	@$(BIN)/python examples/install.py
	@$(BIN)/opd run --fresh examples/arithmetic/opdjob.yaml

demo-cluster: setup testbed ## the same in pods: a Kubernetes on this machine, Helm, kubectl apply (takes root)
	@examples/demo-cluster.sh

test: setup check testbed ## everything CI runs; what is skipped is printed with its reason
	$(BIN)/python -m pytest -n 2 -m "not full" --durations 15 tests

test-full: setup check testbed ## every matrix and seed; writes docs/test-report/
	@$(BIN)/python tests/testbed/programs.py optional
	$(BIN)/python -m pytest -n 2 tests/unit --test-report docs/test-report/unit.md
	$(BIN)/python -m pytest tests/cluster --test-report docs/test-report/cluster.md
	$(BIN)/python -m pytest tests/controlplane --test-report docs/test-report/controlplane.md
	$(BIN)/python -m pytest tests/runtime tests/gpu --test-report docs/test-report/runtime.md

check: setup ## lint, types, import rules, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory verify

fmt: setup ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: setup ## CRD, reference pages, the chart's README, from what they describe
	$(BIN)/python -m opd_api.generate
	$(BIN)/python -m opd_runtime.cli.reference
	$(BIN)/python charts/readme.py

verify: setup ## generated files are in step with the code
	$(BIN)/python -m opd_api.generate --check
	$(BIN)/python -m opd_runtime.cli.reference --check
	$(BIN)/python charts/readme.py --check

bench: setup testbed ## the comparisons of bench/, ratios in one run
	@$(UV) pip install -q --python $(BIN)/python --no-deps -r requirements/bench.txt
	$(BIN)/python bench/step.py
	$(BIN)/python bench/trl.py
	$(BIN)/python bench/operator_scale.py

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
