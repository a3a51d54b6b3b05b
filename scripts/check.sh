#!/bin/sh
# What must hold before a commit. Runs every check, beside each other, and fails at the end: one run shows all that is wrong.
set -u
cd "$(dirname "$0")/.."
bin=.venv/bin
said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT
names=

check() {
  name=$1
  shift
  names="$names $name"
  ("$@" >"$said/$name" 2>&1 || touch "$said/$name.failed") &
}

stubs_are_fresh() {
  fresh=$(mktemp -d)
  scripts/proto.sh "$fresh" >/dev/null 2>&1 && diff -r -x __pycache__ -x pyproject.toml "$fresh/slipway" libs/contracts/slipway
  status=$?
  rm -rf "$fresh"
  [ $status -eq 0 ] || echo "The stubs differ from proto/: run 'make proto' and commit the result."
  return $status
}

# Against the branch that users have; in a clone without it (or on it, freshly cloned) there is nothing to compare.
contracts_do_not_break() {
  base=$(git rev-parse --verify --quiet origin/main || git rev-parse --verify --quiet main) || return 0
  git ls-tree --name-only "$base" -- proto | grep -q . || return 0
  $bin/buf breaking --against ".git#ref=$base"
}

check types $bin/basedpyright --level error
check format $bin/ruff format --check .
check lint $bin/ruff check .
check imports $bin/lint-imports
check dependencies $bin/python scripts/dependencies.py
check image-locks $bin/python scripts/service_locks.py --check
check proto-lint $bin/buf lint
check proto-breaking contracts_do_not_break
check stubs stubs_are_fresh
wait
failed=
for name in $names; do
  if [ -e "$said/$name.failed" ]; then
    printf 'FAIL  %s\n%s\n' "$name" "$(cat "$said/$name")"
    failed="$failed $name"
  else
    printf 'ok    %s\n' "$name"
  fi
done
[ -z "$failed" ] || { printf 'failed:%s\n' "$failed"; exit 1; }
