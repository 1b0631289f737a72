# `make demo` is all that a new machine needs: what is missing is installed on the way.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
APT := DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120

SYSTEM := orthanc orthanc-python orthanc-dicomweb orthanc-gdcm python3-venv
SYSTEM_CLUSTER := orthanc-postgresql postgresql
SYSTEM_TEST := chromium chromium-driver dcmtk dicom3tools default-jre-headless libpixelmed-java

export HTTP_PORT DICOM_PORT STORAGE WEIGHTS WEIGHTS_SHA256 DICOM RESULTS ONCE

.PHONY: help demo serve samples stand-in model-repository test test-cluster lint verify bench system system-test system-cluster clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

demo: $(BIN)/.installed system ## Start Orthanc, upload radiographs (DICOM=path), show the results; ONCE=1 ends by itself
	@$(BIN)/python -m demo.demo

serve: $(BIN)/.installed system ## Start Orthanc with the plugin, in the foreground
	@exec $(BIN)/python -m demo.serve

samples: $(BIN)/.installed ## Draw the sample radiographs into samples/
	@$(BIN)/python -m demo.phantoms samples

stand-in: $(BIN)/.installed ## Write stand-in weights as a checkpoint to CHECKPOINT=path
	@test -n "$(CHECKPOINT)" || { echo "Say where to: make stand-in CHECKPOINT=path" >&2; exit 2; }
	@$(BIN)/python -m plugin.weights stand-in "$(CHECKPOINT)"

model-repository: $(BIN)/.installed ## Write the model as Triton and MLServer read it, into REPOSITORY=folder
	@test -n "$(REPOSITORY)" || { echo "Say where to: make model-repository REPOSITORY=folder" >&2; exit 2; }
	@$(BIN)/python -m plugin.model_repository "$(REPOSITORY)"

test: $(BIN)/.installed system system-test ## Run all tests, those against a real Orthanc included
	$(BIN)/python -m pytest

test-cluster: $(BIN)/.servers build/mlserver/.installed system system-cluster ## Test with inference servers, and with several Orthancs on one PostgreSQL
	$(BIN)/python -m pytest tests/cluster

lint: $(BIN)/.installed ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

verify: $(BIN)/.installed ## Compare this installation with the scores that TorchXRayVision publishes (needs the Internet once)
	@$(BIN)/python -m plugin.verify

bench: $(BIN)/.installed system ## Measure, against TorchXRayVision's own way in the same run
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m bench

system: ## Install Orthanc and its plugins (Debian, Ubuntu)
	@dpkg -s $(SYSTEM) >/dev/null 2>&1 || { $(SUDO) $(APT) update -q && $(SUDO) $(APT) install -q -y --no-install-recommends $(SYSTEM); }

system-test: ## Install what the tests need besides
	@dpkg -s $(SYSTEM_TEST) >/dev/null 2>&1 || { $(SUDO) $(APT) update -q && $(SUDO) $(APT) install -q -y --no-install-recommends $(SYSTEM_TEST); }

system-cluster: ## Install PostgreSQL and Orthanc's plugin for it
	@dpkg -s $(SYSTEM_CLUSTER) >/dev/null 2>&1 || { $(SUDO) $(APT) update -q && $(SUDO) $(APT) install -q -y --no-install-recommends $(SYSTEM_CLUSTER); }

clean: ## Remove everything that was made here
	rm -rf .venv build samples .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# A virtual environment of our own; python3-venv may be missing on a bare Debian.
$(BIN)/.installed: pyproject.toml
	@$(PYTHON) -m venv .venv 2>/dev/null || { $(MAKE) --no-print-directory system && $(PYTHON) -m venv .venv; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[prepare,tools,test,bench]'
	@touch $@

$(BIN)/.servers: $(BIN)/.installed
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[servers]'
	@touch $@

# A server never shares an environment with its clients: they want different releases of the same libraries.
build/mlserver/.installed: tests/cluster/mlserver.txt
	@$(PYTHON) -m venv --clear build/mlserver
	@build/mlserver/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
