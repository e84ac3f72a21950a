# Every target does its own set-up; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := runc busybox-static containerd skopeo umoci buildah debootstrap docker-registry zstd iproute2 \
	btrfs-progs nftables runsc containernetworking-plugins
WORKERS ?= auto
SOAK_SEED := $(or $(SOAK_SEED),$(shell od -An -N3 -tu4 /dev/urandom | tr -d " "))
.DEFAULT_GOAL := help
.PHONY: help root system venv lint proto test test-all soak demo bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

root: ## refuse where this is not root
	@[ "$$(id -u)" = 0 ] || { echo "the tests make mounts and containers: run them as root" >&2; exit 2; }

system: ## Debian packages that the demo and the tests use (installs them where it is root)
	@PACKAGES="$(PACKAGES)" tools/system-packages

venv: $(VENV)/.done ## a virtual environment in .venv with both distributions, editable

$(VENV)/.done: pyproject.toml core/pyproject.toml core/hatch_build.py constraints.txt requirements-dev.txt
	@tools/make-venv $(PYTHON) $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e core -e .
	@touch $@

lint: venv ## style, types, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy core client lib plugins tests bench examples
	$(BIN)/lint-imports
	@tools/check-proto
	@$(BIN)/python tools/generate-sync --check

proto: venv ## generate api/intermodal_api from api/proto
	$(BIN)/python tools/generate-proto

test: root venv system ## the real path of each feature, under 10 minutes
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow and not soak"

test-all: root venv system ## everything that an issue names, under 45 minutes
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not soak" --durations=20

soak: root venv system ## long crash tests and random histories, under 40 minutes; prints its seed
	@echo "seed $(SOAK_SEED): make soak SOAK_SEED=$(SOAK_SEED) runs the same again"
	SOAK_SEED=$(SOAK_SEED) timeout 2400 $(BIN)/pytest -n $(WORKERS) -m soak --durations=20

demo: venv system ## one image under every backend that works here
	@$(BIN)/python -m examples.demo

bench: venv system ## this daemon beside Debian's containerd, interleaved
	@$(BIN)/python -m bench

clean: ## remove what the other targets made here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .tmp
