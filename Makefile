# `make help` lists the targets. Every target that needs the tools sets them up first, once.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
SETUP  := $(VENV)/.installed node_modules/.installed
PEERS  := .peers
# For tools that load the settings but touch no database.
LOCAL  := DEBUG=true DATABASE_URL=sqlite://:memory:
# Three processes of tests, for they wait much, each with servers of its own. Whoever is done takes from the others.
BESIDE := -n 3 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint format types imports migrations bench bench-peers chaos chaos-signer contract-dfns contract-fireblocks custody-signatures cases lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(SETUP) ## Make the virtual environment, get the contracts and the local chain

demo: $(SETUP) ## Issue an asset on a local chain and stay up (ONCE=1: end after the issuance)
	@$(PY) -m dalp.local.demo $(if $(ONCE),--once)

test: $(SETUP) ## Run all the tests on PostgreSQL, and those of the engine and signer on SQLite too (ARGS="-k lane")
	@$(VENV)/bin/pytest $(BESIDE) $(ARGS)
	@DALP_TEST_DATABASE=sqlite $(VENV)/bin/pytest $(BESIDE) -m sqlite_too $(ARGS)

check: lint types imports migrations test ## What CI runs

lint: $(SETUP) ## Look for mistakes and formatting with ruff
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check

format: $(SETUP) ## Format, and mend what ruff can mend
	@$(VENV)/bin/ruff check --fix-only --quiet
	@$(VENV)/bin/ruff format

types: $(SETUP) ## Check the types with mypy --strict
	@$(LOCAL) $(VENV)/bin/mypy

imports: $(SETUP) ## Check who imports whom
	@$(VENV)/bin/lint-imports

migrations: $(SETUP) ## Fail when a model has changed without its migration
	@$(LOCAL) $(PY) manage.py makemigrations --check --dry-run

bench: $(SETUP) ## Measure steps and transactions per second on PostgreSQL
	@$(PY) -m benchmarks

bench-peers: $(SETUP) $(PEERS)/.installed ## Measure DALP beside DBOS and Restate, which it installs under .peers/
	@$(PY) -m benchmarks.peers $(ARGS)

chaos: $(SETUP) ## Run 10,000 random programs while workers and servers are killed (ARGS="--seed 7")
	@$(PY) -m tests.chaos $(ARGS)

chaos-signer: $(SETUP) ## Send 10,000 transactions while workers are killed, answers lost, blocks taken back (ARGS="--seed 7")
	@$(PY) -m tests.chaos_signer $(ARGS)

contract-dfns: $(SETUP) .contracts/dfns/.installed ## Compare our client of DFNS with DFNS' own SDK, which it installs under .contracts/
	@DFNS_SDK=$(CURDIR)/.contracts/dfns/node_modules $(VENV)/bin/pytest tests/integration/custody/test_dfns_contract.py

contract-fireblocks: $(SETUP) .contracts/prism/.installed ## Hold client and fake to Fireblocks' OpenAPI document (SPEC=/path/to/api-spec-v2.yaml)
	@test -f "$(SPEC)" || { echo "Say where the document is: SPEC=/path/to/api-spec-v2.yaml of github.com/fireblocks/fireblocks-openapi-spec."; exit 1; }
	@FIREBLOCKS_SPEC=$(abspath $(SPEC)) PRISM=$(CURDIR)/.contracts/prism/node_modules/.bin/prism $(VENV)/bin/pytest tests/integration/custody/test_fireblocks_contract.py

custody-signatures: $(SETUP) ## Have the fakes of the custodies sign 10,000 times each: low s, recoverable
	@CUSTODY_SIGNATURES=10000 $(VENV)/bin/pytest tests/integration/custody/test_remote_signing.py -k high_s --timeout 900

cases: $(SETUP) ## List the failure cases that have a test, and those that have none
	@$(PY) -m tests.cases

lock: $(SETUP) ## Compile requirements*.txt from pyproject.toml, and that of the benchmarks' peers
	@$(VENV)/bin/uv pip compile pyproject.toml --quiet --generate-hashes --python-version 3.11 -o requirements.txt
	@$(VENV)/bin/uv pip compile pyproject.toml --quiet --generate-hashes --python-version 3.11 --extra dev -o requirements-dev.txt
	@$(VENV)/bin/uv pip compile benchmarks/peers/requirements.in --quiet --generate-hashes --python-version 3.11 -o benchmarks/peers/requirements.txt

clean: ## Remove everything that setup and demo made
	@rm -rf $(VENV) node_modules $(PEERS) .contracts .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache staticfiles

# A stamp each: the second `make demo` installs nothing.
$(VENV)/.installed: requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 is missing: install Debian's packages python3 and python3-venv."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed, and $(PYTHON) is another: say make PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "This Python cannot make virtual environments: install Debian's package python3-venv."; exit 1; }
	@echo "Installing the Python packages into $(VENV) (once, a minute or two) ..."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --disable-pip-version-check --retries 2 --require-hashes -r requirements-dev.txt > $(VENV)/install.log 2>&1 || { echo "The Python packages could not be installed (is PyPI reachable?): $(VENV)/install.log says why."; exit 1; }
	@touch $@

node_modules/.installed: package-lock.json
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "Node.js is missing: install Node 20 with npm, which brings the contracts and the local chain."; exit 1; }
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo "Node 20 or newer is needed, and this is $$(node --version)."; exit 1; }
	@echo "Getting the contracts and the local chain from npm (once) ..."
	@mkdir -p node_modules
	@npm ci --ignore-scripts --no-audit --no-fund --fetch-retries 1 --fetch-retry-mintimeout 2000 > .npm-install.log 2>&1 || { echo "The npm packages could not be installed (is registry.npmjs.org reachable?): .npm-install.log says why."; exit 1; }
	@rm -f .npm-install.log
	@touch $@

.contracts/dfns/.installed:
	@mkdir -p .contracts/dfns
	@npm install --prefix .contracts/dfns --no-save --ignore-scripts --no-audit --no-fund @dfns/sdk@0.8.3 @dfns/sdk-keysigner@0.8.3 > .contracts/dfns/install.log 2>&1 || { echo "DFNS' SDK could not be installed (is registry.npmjs.org reachable?): .contracts/dfns/install.log says why."; exit 1; }
	@touch $@

.contracts/prism/.installed:
	@mkdir -p .contracts/prism
	@npm install --prefix .contracts/prism --no-save --ignore-scripts --no-audit --no-fund @stoplight/prism-cli@5.14.2 > .contracts/prism/install.log 2>&1 || { echo "Prism could not be installed (is registry.npmjs.org reachable?): .contracts/prism/install.log says why."; exit 1; }
	@touch $@

$(PEERS)/.installed: benchmarks/peers/requirements.txt benchmarks/peers/package-lock.json
	@echo "Installing the peers into $(PEERS) (once, a minute) ..."
	@mkdir -p $(PEERS)
	@cp benchmarks/peers/package.json benchmarks/peers/package-lock.json $(PEERS)
	@test -x $(PEERS)/venv/bin/python || $(PYTHON) -m venv $(PEERS)/venv
	@$(PEERS)/venv/bin/python -m pip install --disable-pip-version-check --retries 2 --require-hashes -r benchmarks/peers/requirements.txt > $(PEERS)/install.log 2>&1 || { echo "The peers' Python packages could not be installed (is PyPI reachable?): $(PEERS)/install.log says why."; exit 1; }
	@npm ci --prefix $(PEERS) --ignore-scripts --no-audit --no-fund --fetch-retries 1 > $(PEERS)/install.log 2>&1 || { echo "The Restate server could not be installed (is registry.npmjs.org reachable?): $(PEERS)/install.log says why."; exit 1; }
	@touch $@
