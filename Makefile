# Every target installs its own requirements. You need only Python 3.11 or newer, pip and make.

PYTHON ?= python3
UV_VERSION := 0.13.9
SECONDS ?= 60
CPU_BUDGET_S := 1100  # what `make test` may cost in all, in CPU seconds: see tests/cpu.py

# Without this, each of the processes that the checks start compiles everything that it imports.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
READY := .venv/.ready
METERED = $(BIN)/python -I -S tests/metered.py

.PHONY: help venv demo dev test lint types imports lowest pytest nightly again fuzz simulate chaos drill bench clean

help:  ## Show the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY)  ## Make the environment in .venv, exactly as uv.lock says.

$(READY): pyproject.toml uv.lock
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --upgrade --target .uv "uv==$(UV_VERSION)"
	UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true .uv/bin/uv sync --quiet --locked --all-extras --all-groups --python $(PYTHON)
	@touch $@

demo: venv  ## Show three regions and an app in a fourth: mint, narrow, deny, revoke; lose a region and the primary.
	@$(BIN)/python docs/demo.py

dev: venv  ## Run one node in memory, with plain JSON for curl, until Ctrl-C.
	@$(BIN)/tkdb dev

test: lint types imports lowest pytest  ## Run all checks: lint, types, import contracts, lowest versions, tests.

lint: venv
	$(METERED) ruff-check $(BIN)/ruff check .
	$(METERED) ruff-format $(BIN)/ruff format --check .

types: venv
	$(METERED) mypy $(BIN)/mypy
	$(METERED) mypy-examples $(BIN)/mypy docs/examples/*.py

lowest: venv  ## Run a token's life with the lowest versions that pyproject.toml allows.
	.uv/bin/uv venv --quiet --clear --python $(BIN)/python .lowest
	VIRTUAL_ENV=.lowest UV_SYSTEM_CERTS=true .uv/bin/uv pip install --quiet --resolution lowest-direct --editable '.[server]'
	$(METERED) lowest .lowest/bin/python tests/lowest/token_life.py

imports: venv
	$(METERED) lint-imports $(BIN)/lint-imports --no-cache

pytest: venv  # Files run in parallel, because tests of real machines mostly wait. One process compiles all tests first.
	@$(METERED) pytest-collect $(BIN)/python -m pytest --collect-only -p no:cacheprovider >/dev/null || true
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --cpu-budget $(CPU_BUDGET_S)

nightly: venv  ## All tests, with all random schedules, properties and fuzzing at full length. See tests/profiles.py.
	TESTS_PROFILE=nightly $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --timeout 3600

again: venv  ## Run the tests that failed last once more, one at a time, and record them.
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none --maxfail 1 --again

fuzz: venv  ## Fuzz every reader of untrusted bytes, for SECONDS=60.
	$(BIN)/python -m tests.fuzz $(SECONDS)

simulate: venv  ## Simulate machines that share a head, in random schedules, for SECONDS=60; then each negative control.
	$(BIN)/python -m tests.replication.protocol.simulation $(SECONDS)
	$(BIN)/python -m tests.replication.protocol.simulation --controls 300
	$(BIN)/python -m tests.client.cache.model $(SECONDS)

chaos: venv  ## Inject random faults into real machines with a real object store, for SECONDS=60. See docs/replication.md.
	$(BIN)/python -m tests.regions.chaos $(SECONDS)

drill: venv  ## Run every failover drill on regions of this machine: about 15 minutes. See docs/drills.md.
	$(BIN)/tkdb drill run all

bench: venv  ## Measure tkdb and its peers in the same run. See docs/performance.md.
	$(BIN)/python -m bench.tokens
	$(BIN)/python -m bench.cache
	$(BIN)/python -m bench.channel
	$(BIN)/python -m bench.service
	$(BIN)/python -m bench.regions
	$(BIN)/python -m bench.flycast
	$(BIN)/python -m bench.reach

clean:  ## Remove everything that the other targets created.
	rm -rf .venv .uv .lowest .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
