# Everything here needs python3 (3.11 or later) and nothing else: each target makes the environment it needs.
# Tests of PostgreSQL, Docker and a registry run where these are installed, and say so where they are not.

PYTHON ?= python3
TARGET ?= local
WORKERS ?= 3
BIN := .venv/bin
# What is installed here is compiled once, and not by each of a hundred processes.
unexport PYTHONDONTWRITEBYTECODE
# The slow ones first, as they are collected: a file that is long should not be what the other process waits for.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
say = @printf '\033[1m==> %s\033[0m\n' "$(1)"

.PHONY: help demo test test-changed test-rest test-ranges test-all planted test-kubernetes check bench hostile chaos day docs chart schema lock wheel base-image clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 18

demo: .venv/runtime  ## five releases of real models under live traffic, in about three minutes; TARGET=docker for containers
	$(call say,running the demo; its state is in $${HEADGATE_HOME:-~/.headgate}; add ARGS=--keep to keep the stack up)
	@$(BIN)/python examples/demo.py --target '$(TARGET)' $(ARGS)

test: .venv/dev  ## the ring: the unit tests, every real server and every path of a release once; docs/contributing.md
	$(call say,running the ring; ten minutes on two quick cores; WORKERS=1 for one at a time; make test-all runs every test)
	@$(PYTEST) --ring --ignore tests/ranges $(ARGS)

test-changed: .venv/dev  ## the unit tests that a change may concern: of what is not committed, or SINCE=HEAD~3
	@$(PYTEST) --changed $(or $(SINCE),HEAD) tests/unit $(ARGS) || \
		([ $$? = 5 ] && echo "no unit test is concerned by what changed since $(or $(SINCE),HEAD); make test runs the others")

test-rest: .venv/dev  ## the tests outside the ring; SHARE=2/6 for the second of six parts
	$(call say,running the tests outside the ring; about fifty minutes on two cores; SHARE=2/6 runs the second of six parts)
	@$(PYTEST) --share $(or $(SHARE),1/1) --ignore tests/ranges $(ARGS)

test-ranges: .venv/dev  ## the oldest and the newest versions that pyproject.toml allows: a release, a scheduled check, an event
	$(call say,making two environments and running releases in each; about ten minutes)
	@$(BIN)/python -m pytest tests/ranges $(ARGS)

test-all: test test-rest test-ranges  ## every test, and both ends of the version ranges; more than an hour on two cores

planted: .venv/dev  ## plant a hundred faults, one at a time, and see that a test finds each; ARGS="--minutes 60 --only NAME"
	$(call say,planting faults in a copy of the last commit in .planted; run it again to go on where it was)
	@$(BIN)/python tests/planted/run.py --work .planted $(ARGS)

test-kubernetes: .venv/dev  ## the suite of every target on a cluster; CONTEXT=kind-kind LOAD="kind load docker-image" END_API=…
	$(call say,running the suite of every target on $(or $(CONTEXT),(no CONTEXT was named)))
	@test -n "$(CONTEXT)" || (echo "name a context of your kubeconfig: make test-kubernetes CONTEXT=kind-kind" && exit 2)
	@# Two runs, as each folder has a conftest of its own.
	@for tests in tests/contract tests/flows/test_kubernetes_releases.py; do \
		HEADGATE_TEST_KUBERNETES="$(CONTEXT)" HEADGATE_TEST_KUBERNETES_LOAD="$(LOAD)" \
			HEADGATE_TEST_KUBERNETES_END_API="$(END_API)" \
			$(BIN)/python -m pytest $$tests -k kubernetes $(ARGS) || exit 1; \
	done

check: .venv/dev  ## style, types, import contracts, schema, links of the docs
	$(call say,ruff)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(call say,mypy)
	@$(BIN)/mypy
	$(call say,import contracts)
	@$(BIN)/lint-imports --no-cache
	$(call say,release.schema.json is that of the code)
	@$(BIN)/headgate schema | diff - release.schema.json || (echo "run: make schema" && exit 1)
	$(call say,examples are valid and links lead somewhere)
	@for file in examples/*/release.yaml; do $(BIN)/headgate validate $$file || exit 1; done
	@$(BIN)/python docs/feature_table.py --check
	@$(BIN)/python docs/check_links.py
	@$(BIN)/python docs/check_installs.py
	@$(BIN)/python ops/helm/files.py --check

bench: .venv/dev  ## every benchmark; prints ratios measured side by side
	$(call say,running the benchmarks; about fifty minutes)
	@$(BIN)/python benchmarks/run.py $(ARGS)

hostile: .venv/dev  ## attacks on an endpoint and input with faults; what they cost other clients
	$(call say,attacking an endpoint; about twenty minutes)
	@$(BIN)/python benchmarks/hostile $(ARGS)

chaos: .venv/dev  ## kill releases by the hundred; ARGS="--kills 500 --seed 7"
	$(call say,killing releases; about six seconds a kill)
	@$(BIN)/python benchmarks/chaos.py $(ARGS)

day: .venv/dev  ## a day of an endpoint's life in half an hour; ARGS="--hours 24 --seed 1"
	$(call say,living a day; an hour of it takes about a minute)
	@$(BIN)/python benchmarks/day.py $(ARGS)

docs: .venv/dev  ## write the table of docs/targets.md
	@$(BIN)/python docs/feature_table.py

chart: .venv/dev  ## write what the Helm chart has from the code
	@$(BIN)/python ops/helm/files.py

schema: .venv/runtime  ## write release.schema.json
	@$(BIN)/headgate schema > release.schema.json

lock: .venv/uv  ## resolve the dependencies anew
	@$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

wheel: .venv/uv  ## build dist/headgate_ml-….whl, which docs/install.md installs
	@$(BIN)/uv build --quiet --wheel --out-dir dist .
	@ls dist/*.whl

base-image:  ## a small Debian with Python as headgate-base:latest, where none can be pulled (needs root and debootstrap)
	@.ci/base-image

clean:  ## remove the environment
	rm -rf .venv

.venv/uv:
	$(call say,making a virtual environment in .venv)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "$(PYTHON) is too old: Headgate needs Python 3.11 or later; try: make PYTHON=python3.12" && exit 2)
	@$(PYTHON) -m venv .venv || (echo "on Debian and Ubuntu: apt-get install python3-venv" && exit 2)
	@$(BIN)/pip install -q --disable-pip-version-check uv
	@touch $@

.venv/runtime: .venv/uv requirements.lock pyproject.toml
	$(call say,installing Headgate and what it needs with uv; a minute or two the first time)
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

.venv/dev: .venv/runtime requirements-dev.lock
	$(call say,installing what the tests need)
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@
