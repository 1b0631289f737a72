# `make demo` is all that a new machine needs: what is missing is installed on the way.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# What is there is not asked for again, nor anybody for a password then.
PACKAGES = ! dpkg-query -Wf '$${Status}\n' $(1) 2>&1 | grep -qv ' installed$$' || $(SUDO) sh packaging/packages.sh $(1)

SYSTEM := orthanc orthanc-python orthanc-dicomweb orthanc-gdcm python3-venv
# For a decoder that has no wheel for Python 3.14.
SYSTEM += $(shell $(PYTHON) -c 'import sys; print("g++ python3-dev" if sys.version_info >= (3, 14) else "")' 2>/dev/null)
SYSTEM_CLUSTER := dcmtk haproxy orthanc-postgresql postgresql
SYSTEM_TEST := chromium chromium-driver dcmtk dicom3tools default-jre-headless gcc libpixelmed-java
SYSTEM_IMAGE := buildah ca-certificates catatonit mmdebstrap podman runc

export HTTP_PORT DICOM_PORT STORAGE WEIGHTS WEIGHTS_SHA256 OUTPUTS DICOM RESULTS ONCE FULL IMAGES PACS_IMAGE

.PHONY: help demo serve install samples stand-in model-repository test test-faults soak test-cluster test-image lint verify audit
.PHONY: bench screenshots lock system system-test system-image system-cluster clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

demo: $(BIN)/.installed system ## Start Orthanc, upload radiographs (DICOM=path), show the results; ONCE=1 ends by itself
	@$(BIN)/python -m demo.demo

serve: $(BIN)/.installed system ## Start Orthanc with the plugin, in the foreground
	@exec $(BIN)/python -m demo.serve

install: system ## Install the server as a systemd service, or upgrade it; as root
	@sh packaging/install.sh

samples: $(BIN)/.installed ## Draw the radiographs in samples/ anew, after a change of demo/phantoms.py
	@rm -f samples/*.dcm
	@$(BIN)/python -m demo.phantoms samples

stand-in: $(BIN)/.installed ## Write stand-in weights as a checkpoint to CHECKPOINT=path
	@test -n "$(CHECKPOINT)" || { echo "Say where to: make stand-in CHECKPOINT=path" >&2; exit 2; }
	@$(BIN)/python -m plugin.weights stand-in "$(CHECKPOINT)"

model-repository: $(BIN)/.installed ## Write the model as Triton and MLServer read it, into REPOSITORY=folder
	@test -n "$(REPOSITORY)" || { echo "Say where to: make model-repository REPOSITORY=folder" >&2; exit 2; }
	@$(BIN)/python -m plugin.model_repository "$(REPOSITORY)"

test: $(BIN)/.installed-test system system-test ## Run all tests, those against a real Orthanc included
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-faults: $(BIN)/.installed-test system system-test ## Break things on purpose, and count; FULL=1 does all of it (an hour)
	$(BIN)/python -m pytest tests/faults -p no:logging

test-cluster: $(BIN)/.servers build/mlserver/.installed build/triton/.installed system system-cluster ## Test with inference servers, and with several Orthancs on one PostgreSQL
	$(BIN)/python -m pytest tests/cluster

lint: $(BIN)/.installed-test ## Check style, types, the Dockerfile, the compose files and the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose*.yaml docker/services.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yaml
	$(BIN)/zizmor --offline --quiet .github

ON_POSTGRESQL := tests/cluster/test_several_orthancs.py::test_one_is_killed_and_the_other_does_what_it_had_begun
test-image: $(BIN)/.installed-test system-test system-image system-cluster ## Build the image on a stand-in base, run it, test it whole
	$(BIN)/python -m tests.image.build
	$(BIN)/python -m tests.image.check
	PACS_IMAGE=localhost/orthanc-chest-xray $(BIN)/python -m pytest tests/test_end_to_end.py tests/faults/test_http.py $(ON_POSTGRESQL)

# The base image has Python 3.14. highdicom declares a decoder that it does not import, and that has no wheel for it.
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --no-python-downloads --generate-hashes --no-annotate \
	--custom-compile-command "make lock" --python-platform x86_64-manylinux_2_28 --no-emit-package pyjpegls
lock: $(BIN)/.installed-test ## Pin, by hash, what the image installs; after a change of pyproject.toml
	$(LOCK) --python-version 3.14 --extra tools --output-file docker/requirements-cpu.txt
	$(LOCK) --python-version 3.14 --extra tools --extra gpu --output-file docker/requirements-gpu.txt
	$(LOCK) --python-version 3.14 --extra tools --extra servers --output-file docker/requirements-servers.txt
	$(LOCK) --python-version 3.11 --extra prepare --find-links $(TORCH_LINKS) --output-file docker/requirements-prepare.txt

verify: $(BIN)/.installed ## Compare this installation with the scores that TorchXRayVision publishes (needs the Internet once)
	@$(BIN)/python -m plugin.verify

audit: $(BIN)/.installed-test ## Ask for known vulnerabilities in the image's packages (needs the Package Index itself, not a mirror)
	@$(BIN)/pip-audit --progress-spinner off --strict --disable-pip --require-hashes \
		$(patsubst %,--requirement %,$(wildcard docker/requirements-*.txt))

bench: $(BIN)/.installed-test system ## Measure, against TorchXRayVision's own way in the same run
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m bench

screenshots: $(BIN)/.installed-test system system-test ## Take the pictures in docs/ from the real pages
	@$(BIN)/python -m demo.screenshots

soak: $(BIN)/.installed-test system ## Thousands of images through one Orthanc (IMAGES=3000), and what grows meanwhile
	$(BIN)/python -m bench.soak

system: ## Install Orthanc and its plugins (Debian, Ubuntu)
	@$(call PACKAGES,$(SYSTEM))

system-test: ## Install what the tests need besides
	@$(call PACKAGES,$(SYSTEM_TEST))

system-image: ## Install what building and running the image needs besides
	@$(call PACKAGES,$(SYSTEM_IMAGE))

system-cluster: ## Install PostgreSQL, Orthanc's plugin for it, a load balancer and a DICOM sender
	@$(call PACKAGES,$(SYSTEM_CLUSTER))

clean: ## Remove everything that was made here
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# PyPI's torch comes with gigabytes of CUDA; PyTorch's own page has one without. Whoever has told pip of a place for such
# files has chosen already.
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --retries 5 \
	$$($(BIN)/pip config list | grep find-links > /dev/null || echo --find-links $(TORCH_LINKS))
TORCH_LINKS ?= https://download.pytorch.org/whl/cpu/torch/

# A virtual environment of our own; python3-venv may be missing on a bare Debian.
$(BIN)/.installed: pyproject.toml
	@$(PYTHON) -m venv .venv 2>/dev/null || { $(MAKE) --no-print-directory system && $(PYTHON) -m venv .venv; }
	@echo 'Installing Python packages in .venv (the first time, a minute or more) ...' >&2
	@$(PIP_INSTALL) --editable '.[prepare,tools]'
	@touch $@

$(BIN)/.installed-test: $(BIN)/.installed
	@$(PIP_INSTALL) --editable '.[analysis,bench,prepare,tools,test]'
	@touch $@

$(BIN)/.servers: $(BIN)/.installed-test
	@$(PIP_INSTALL) --editable '.[servers]'
	@touch $@

# A server never shares an environment with its clients: they want different releases of the same libraries.
build/%/.installed: tests/cluster/%.txt
	@$(PYTHON) -m venv --clear build/$*
	@build/$*/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@
