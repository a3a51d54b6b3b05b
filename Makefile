# `make help` lists the targets. Everything is set up in .venv from the locked requirements; nothing else is touched.
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv/bin
# More for `slipway up`, e.g. make up UP_FLAGS="--port 9090"
UP_FLAGS ?=
# Processes that the tests run in beside each other; 0: in this one, one after the other.
WORKERS ?= auto

.PHONY: help run up cluster-test test check fmt servers bench soak proto lock images images-test lock-images clean setup setup-dev

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done

setup:
	@scripts/setup.sh run

setup-dev:
	@scripts/setup.sh dev

run: setup ## Start the whole stack and take one real agent run through it (the tour)
	@$(VENV)/slipway up --tour $(UP_FLAGS)

up: setup ## Start the whole stack and keep it running until Ctrl-C
	@$(VENV)/slipway up $(UP_FLAGS)

test: setup-dev ## Run every test (SLIPWAY_REQUIRE_SERVERS=1: a missing real server is a failure)
	@$(VENV)/python -m pytest -n $(WORKERS)

check: setup-dev ## Format, lint, types, import rules, contracts and stubs: quick, before each commit
	@scripts/check.sh

fmt: setup-dev ## Format the code
	@$(VENV)/ruff format . && $(VENV)/ruff check --fix .

servers: ## Install the real servers: PostgreSQL, Redis, RabbitMQ, Prometheus (Debian), Weaviate, versitygw, gVisor, Helm (Go), Keycloak (Maven)
	@scripts/servers.sh

cluster-test: setup-dev ## Install the chart on the cluster of KUBECONFIG and put it through upgrades and kills (docs/kubernetes.md)
	@scripts/cluster-test.sh

soak: setup-dev ## Random programs and random kills for MINUTES=… (default 10)
	@SLIPWAY_SOAK_MINUTES=$(or $(MINUTES),10) $(VENV)/python -m pytest -s -k soak tests/fault/test_programs.py

bench: setup-dev ## Print the benchmarks' figures, one JSON line each
	@for f in bench/*.py; do $(VENV)/python $$f || exit 1; done

proto: setup-dev ## Generate the gRPC stubs from proto/
	@scripts/proto.sh

lock: setup-dev ## Lock the requirements anew, with hashes
	@scripts/lock.sh

images: setup-dev ## Build the images with docker and print their sizes (IMAGES="audit cli" TAG=… BASE=…|debian)
	@scripts/images.sh $(IMAGES)

images-test: setup-dev ## Take the tour through the images of TAG (built by make images)
	@SLIPWAY_TEST_IMAGES=1 $(VENV)/python -m pytest -s tests/images

lock-images: setup-dev ## Lock anew what each image installs, by requirements.txt
	@$(VENV)/python scripts/service_locks.py

clean: ## Remove the virtual environment, caches and the local stack's data
	rm -rf .venv .venv-litellm .slipway dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
