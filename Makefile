# The same verbs by hand and in CI. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
# Each process that this file starts keeps to a few threads: two busy pools on two cores run ten times slower.
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export MPLBACKEND ?= Agg
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow fuzz check charts docs fmt bench lock clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: .venv/.installed  ## create .venv and install the locked packages (about 6 GB, once)

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "tta-agent needs Python 3.11 or newer; name one: make install PYTHON=python3.12"; exit 1; }
	@echo "==> creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv
	@echo "==> installing the locked packages (torch, onnxruntime and friends: about 6 GB, a few minutes, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@echo "==> installing tta-agent itself, editable"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install  ## the whole story on real images: shift, adapt, prove, swap, recover (about 3 minutes)
	@$(BIN)/tta-agent demo $(ARGS)

test: install  ## run the tests, in two processes (parts that this machine lacks are skipped with the reason)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(ARGS)

test-slow: install  ## run the others, of more than ten seconds each: whole loops, kills, families of models
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow $(ARGS)

fuzz: install  ## look for bytes that the decoder stumbles over (FUZZ_SECONDS, 10 minutes)
	@$(BIN)/python -m tests.fuzz.decoder .fuzz/decoder -dict=tests/fuzz/decoder.dict -artifact_prefix=.fuzz/ \
		-max_total_time=$(or $(FUZZ_SECONDS),600) -max_len=4096 -timeout=10 -rss_limit_mb=4096 -verbosity=0 -print_final_stats=1

check: install  ## ruff, format, mypy strict, directions of imports; docs that are up to date, links that lead somewhere
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m docs.generate --check
	@$(BIN)/python -m docs.check_links

# What cannot be built here is skipped with the reason, unless PARTS_REQUIRED=helm
CHART_TOOLS := helm kubeconform helm-unittest helm3 kubectl compose-go

charts: install  ## the Helm chart: lint, schema, unit tests, renders, Kubernetes' schemas (Go builds the tools once)
	@$(BIN)/python -m tests.parts.kube.tools $(CHART_TOOLS) || true
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/charts -m "not k8s and not kafka" $(ARGS)

docs: install  ## write docs/reference/ and the table of rooms anew, from the code
	@$(BIN)/python -m docs.generate

fmt: install  ## format and mend what ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: install  ## the agent's throughput as ratios of a bare loop
	@$(BIN)/python benchmarks/loop.py $(ARGS)

lock:  ## compile requirements.lock and the image's deploy/requirements.lock anew (hashes, no index lines)
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate -o requirements.lock --quiet
	@$(BIN)/uv pip compile pyproject.toml --extra fast --extra rehearse --extra s3 --extra timm -c requirements.lock --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
		-o deploy/requirements.lock --quiet

clean:  ## remove .venv and caches
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
