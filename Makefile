# Roundhouse. `make serve` and `make test` do all the set-up themselves; `make help` lists the rest.
PYTHON ?= python3
DEVICE ?= $(shell if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null 2>&1; then echo cuda; else echo cpu; fi)
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := requirements/$(DEVICE).lock
STAMP  := $(VENV)/.installed-$(DEVICE)
TESTS  := $(VENV)/.installed-tests
BENTOFILE := $(if $(filter cuda,$(DEVICE)),deploy/bento/cuda.yaml,bentofile.yaml)
NODE   := tests/node/node_modules/.package-lock.json
CRDS   := tests/k8s/crds/node_modules/.package-lock.json
CLIENTS := clients clients-aider node
INSTALLED := $(filter-out %/node/.installed,$(CLIENTS:%=build/clients/%/.installed)) $(if $(filter node,$(CLIENTS)),tests/clients/node/node_modules/.package-lock.json)
MINUTES := 25
MUTANTS_MINUTES := 15
MUTANTS_SEED := 1
export BENTOML_DO_NOT_TRACK := True

.DEFAULT_GOAL := help
.PHONY: help install serve bento test test-fast test-paused coverage mutants fuzz test-clients image-test image-test-cuda k8s k8s-policy k8s-live k8s-node lint types check audit sbom gpu docs lock clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  DEVICE=cpu|cuda forces the choice of vLLM build (found here: $(DEVICE)); ROUNDHOUSE_FLEET names another fleet file"

install: $(STAMP)  ## Create .venv and install what serving needs, pinned

$(STAMP): $(LOCK) pyproject.toml
	@test -f $(LOCK) || { echo "DEVICE is '$(DEVICE)'; it must be cpu or cuda."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
	  echo "Roundhouse needs Python 3.11 to 3.14, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "Installing Roundhouse with vLLM for $(DEVICE) into $(VENV): about 4 GB, a few minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "'$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv"; exit 2; }
	@# --no-deps: the lock is complete, and leaves out the torchvision, torchaudio and torchcodec that break the CPU build.
	@$(BIN)/python -m pip install --no-deps --require-hashes -r $(LOCK) && $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . || { \
	  echo; echo "The install failed; the last lines above say at which package."; \
	  echo "  - no network or a proxy: make pip reach a package index (pip config, PIP_INDEX_URL), then run the same command again: it goes on where it stopped."; \
	  echo "  - 'torch==...+cpu' not found: pip must also see PyTorch's CPU wheels: set PIP_EXTRA_INDEX_URL to PyTorch's CPU index, or PIP_FIND_LINKS to a folder with the wheel."; \
	  echo "  - hashes do not match: the index serves another file than the one that was tested, or none for this Python: try python3.11."; \
	  echo "  - no space: 8 GB free are needed here ($$(df -h . | awk 'NR == 2 { print $$4 }') are)."; \
	  echo "  - half-installed: make clean && make install"; exit 2; }
	@touch $@

$(TESTS): $(STAMP) requirements/test.lock
	@echo "Installing the tools that tests and checks need."
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements/test.lock
	@touch $@

serve: $(STAMP)  ## Serve the fleet on 127.0.0.1:3000 (the embedded Pebble models unless ROUNDHOUSE_FLEET says otherwise)
	@exec $(BIN)/roundhouse serve

bento: $(STAMP)  ## Build a Bento with the run-time packages of DEVICE
	$(BIN)/bentoml build -f $(BENTOFILE)

test: $(TESTS) $(NODE) $(CRDS)  ## Lint, type-check and run every test, real vLLM included
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@# Types are checked beside the tests, which wait for engines often enough.
	@mkdir -p build; $(BIN)/mypy > build/mypy.txt 2>&1 & types=$$!; \
	  $(BIN)/pytest -n 2 --no-loadscope-reorder -m "not clients and not images"; tests=$$?; \
	  wait $$types; types=$$?; cat build/mypy.txt; exit $$((tests | types))

test-fast: $(TESTS)  ## The tests that need neither an engine nor a whole service: under 4 minutes
	@# A third process works while two wait for the processes that they have started.
	$(BIN)/pytest -n 3 -m "not engine and not slow and not clients and not images" --hypothesis-profile quick

test-paused: $(TESTS)  ## The fast tests while each of their processes is stopped again and again, as on a busy machine: an hour
	$(BIN)/pytest -n 12 --pauses -m "not engine and not slow and not clients and not images" --hypothesis-profile quick --timeout 600

coverage: $(TESTS)  ## Which branches of service/ the tests without an engine take: the table, and build/coverage
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/pytest -n 2 -m "not engine and not clients and not images" --cov --cov-report= --cov-fail-under=0
	@$(BIN)/coverage html --quiet --fail-under=0 -d build/coverage/html
	@$(BIN)/coverage report --sort=cover > build/coverage/report.txt; status=$$?; \
	  head -n 17 build/coverage/report.txt; grep -A 2 '^TOTAL' build/coverage/report.txt; exit $$status

mutants: $(TESTS)  ## Change the pure packages a little, MUTANTS_MINUTES (15) long, and list what no test notices
	$(BIN)/python -m tests.mutants --minutes $(MUTANTS_MINUTES) --seed $(MUTANTS_SEED)

fuzz: $(TESTS)  ## Send 10,000 made-up requests to a gateway with fake engines: no 5xx, flat memory (several minutes)
	$(BIN)/python -m bench.fuzz

test-clients: $(TESTS) $(INSTALLED)  ## Run today's coding agents and libraries against the gateway (3 GB; Python 3.11 or 3.12); CLIENTS=node runs those of npm
	$(BIN)/pytest tests/clients

image-test: $(TESTS)  ## Build the images of gateway and engine-cpu on a Debian made here, and have them answer a chat (root; 20 minutes)
	$(BIN)/pytest -n 0 -s -m images tests/images

image-test-cuda: $(TESTS)  ## Build the image of engine, for NVIDIA GPUs, and run what of it needs no GPU (root; 50 GB, half an hour)
	IMAGE_TEST_CUDA=1 $(BIN)/pytest -n 0 -s -m images tests/images/test_cuda.py

k8s-policy: $(TESTS) build/clients/k8s-policy/.installed  ## Judge everything that the Helm chart renders by checkov's policies (installs 400 MB)
	$(BIN)/python -m tests.k8s.policy build/clients/k8s-policy/bin/checkov

k8s-live: $(TESTS) build/control-plane/bin/kube-scheduler  ## Install, upgrade, drain and scale the Helm chart on a real control plane, built here (Debian; 5 to 20 minutes, once)
	$(BIN)/python -m tests.k8s.control_plane $(BIN)/python -m pytest -n 0 tests/k8s/test_live.py

k8s-node: $(TESTS) build/control-plane/bin/kube-scheduler  ## The same on a real node: containerd and kubelet run the images of gateway and engine-cpu (root; 20 minutes more, once)
	$(BIN)/python -m tests.k8s.control_plane --node $(BIN)/python -m pytest -n 0 tests/k8s/test_live.py

build/control-plane/bin/kube-scheduler: tests/k8s/control_plane/build
	tests/k8s/control_plane/build

build/clients/%/.installed: requirements/%.lock
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --require-hashes -r $<
	@touch $@

$(NODE): tests/node/package-lock.json
	@command -v npm >/dev/null || { echo "The Node SDK test needs Node 18 or later with npm; on Debian: apt-get install nodejs npm"; exit 2; }
	cd tests/node && npm ci --no-audit --no-fund
	@touch $@

$(CRDS): tests/k8s/crds/package-lock.json
	cd tests/k8s/crds && npm ci --no-audit --no-fund
	@touch $@

# Not `npm ci`: it refuses a lock without the binaries of other systems, which not every registry has.
tests/clients/node/node_modules/.package-lock.json: tests/clients/node/package-lock.json
	@command -v npm >/dev/null || { echo "The clients need Node 20 or later with npm; on Debian: apt-get install nodejs npm"; exit 2; }
	cd tests/clients/node && npm install --no-save --no-audit --no-fund
	@touch $@

lint: $(TESTS)  ## Check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(TESTS)  ## Check types
	$(BIN)/mypy

check: $(STAMP) audit  ## Validate catalogue and fleet without starting anything, and look for known vulnerabilities
	$(BIN)/roundhouse check

audit: $(TESTS)  ## Look for known vulnerabilities of everything that is pinned (needs the internet; says what it could not look up)
	$(BIN)/python -m tests.packaging.audit requirements/cpu.lock requirements/test.lock
	$(BIN)/python -m tests.packaging.audit requirements/cuda.lock

sbom: $(TESTS)  ## Write a software bill of materials (CycloneDX) of each lock to build/sbom
	@PATH="$(CURDIR)/$(BIN):$$PATH" requirements/sbom build/sbom

gpu: $(STAMP)  ## Measure what the fleet does on this machine's GPU in MINUTES (25), and write docs/gpu.md
	bench/gpu/run --minutes $(MINUTES) && bench/gpu/report

docs: $(TESTS)  ## Regenerate what is generated: models/schema.json, docs/openapi.json, docs/{configuration,errors,metrics,compatibility,routing,http,models,choosing,tool-calls,gpu}.md, what `make k8s` writes
	$(BIN)/python -m service.catalog.catalog > models/schema.json
	$(BIN)/python -m service.gateway.openapi > docs/openapi.json
	$(BIN)/python -m service.config.reference > docs/configuration.md
	$(BIN)/python -m service.cli.error_reference > docs/errors.md
	$(BIN)/python -m service.cli.metric_reference > docs/metrics.md
	$(BIN)/python -m service.cli.compatibility > docs/compatibility.md
	$(BIN)/python -m tests.routing.cases > docs/routing.md
	$(BIN)/python -m tests.server.http_cases > docs/http.md
	$(BIN)/python -m service.cli.reference > docs/models.md
	$(BIN)/python -m tests.planner.choosing > docs/choosing.md
	$(BIN)/python -m tests.autoscaling.scaling
	$(BIN)/python -m tests.vllm.tool_card > docs/tool-calls.md
	$(BIN)/python -m bench.gpu.report
	$(BIN)/python -m deploy.grafana.build
	$(BIN)/python -m k8s.build

k8s: $(TESTS)  ## Regenerate what is generated in k8s/: the chart's schema, queries, rules and dashboards, and the plain manifests
	$(BIN)/python -m k8s.build

lock:  ## Resolve the pinned versions again (needs uv: pip install uv)
	requirements/lock

clean:  ## Remove what was installed and built
	rm -rf $(VENV) build dist mutants .pytest_cache .mypy_cache .ruff_cache tests/node/node_modules tests/clients/node/node_modules tests/k8s/crds/node_modules *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
