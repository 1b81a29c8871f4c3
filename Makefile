# `make demo` and `make test` work on a fresh Debian or Ubuntu with Python 3.11 or newer, make and
# git: each installs what it needs first, once. `make help` lists the rest. Another Python than
# python3: `make PYTHON=python3.13 test` (.venv is made anew with it).

.DEFAULT_GOAL := help
.NOTPARALLEL:
BIN := .venv/bin
# For tests: `keystay`, `node` and `uv` are those of .venv, whatever else the machine has.
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"
# A process for each processor; the tests of one file share theirs, and so its tokens and servers.
PARALLEL := -n auto --dist loadfile

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## the main job, whole, on this machine: a key in SoftHSM signs, a Patient comes back
	@tools/setup softhsm runtime
	@$(BIN)/keystay demo

.PHONY: test
test: setup-dev ## every test (ARGS="-k name" for some)
	$(IN_VENV) python -m pytest -m "not long and not compose" $(PARALLEL) $(ARGS)

.PHONY: test-long
test-long: setup-long ## the signer contract on emulators, on more PKCS#11 modules and on faulty plugins
	$(IN_VENV) python -m pytest -m long $(ARGS)

.PHONY: test-compose
test-compose: setup-dev ## docker-compose.softhsm.yml for real, with Docker or (as root) podman
	@tools/containers ready
	@tools/setup wheelhouse
	$(IN_VENV) python -m pytest -m compose $(ARGS) tests/compose

.PHONY: prove-custody
prove-custody: setup-dev ## look for the private key in a client's memory (ARGS=--write for the page)
	@tools/containers ready
	$(IN_VENV) python -m experiments.custody $(ARGS)

.PHONY: soak
soak: setup-dev ## ten minutes of renewals, as many as in months: no expired token, flat memory
	KEYSTAY_TEST_SOAK_SECONDS=$${KEYSTAY_TEST_SOAK_SECONDS:-600} $(IN_VENV) \
		python -m pytest -m long tests/faults/test_soak.py -s $(ARGS)

.PHONY: setup
setup: ## .venv with keystay and its plugins
	@tools/setup runtime

.PHONY: setup-dev
setup-dev: ## the same, and all that tests and checks need
	@tools/setup system experiments runtime dev servers emulators

.PHONY: setup-long
setup-long: setup-dev
	@tools/setup browser

.PHONY: check
check: ## format, lint, types, layers, shell scripts
	@tools/setup runtime dev benchmarks linters
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy src plugins tests $(wildcard benchmarks/*.py examples/*.py experiments/custody/*.py)
	$(BIN)/lint-imports
	shellcheck .ci/run tools/containers tools/lock tools/setup containers/softhsm/serve \
		containers/softhsm/healthy tests/support/*.sh

.PHONY: fmt
fmt: ## format, and fix what ruff can fix
	@tools/setup runtime dev
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: coverage
coverage: setup-dev ## the tests again, with a report of the lines they did not reach
	$(BIN)/coverage erase
	$(IN_VENV) coverage run -m pytest -m "not compose" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: docs
docs: ## build the documentation into site/; a warning is an error
	@tools/setup runtime dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: bench
bench: ## measure against the raw device and other libraries
	@tools/setup system runtime dev benchmarks
	$(IN_VENV) python -m benchmarks $(ARGS)

.PHONY: bench-smoke
bench-smoke: ## the same, short: does it run
	@tools/setup system runtime dev benchmarks
	$(IN_VENV) python -m benchmarks --smoke

.PHONY: lock
lock: ## write the lock files of Python and npm packages anew (ARGS=--upgrade)
	@tools/setup runtime dev
	tools/lock $(ARGS)

.PHONY: clean
clean: ## remove what was built; the next target installs again
	rm -rf .venv site dist build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache tests/servers/node_modules
