#!/usr/bin/env bash
# KEDA for `make cluster-test` on a cluster that pulls no images: `keda.sh install`, `keda.sh remove`. Operator and metrics
# adapter are built by Go (1.26 or later) of KEDA's own module, with the scalers that the chart uses; the first time
# takes a quarter of an hour, what is built stays in the user's cache folder. Where a cluster pulls images, install KEDA
# as its documentation says.
#   KUBECONFIG, KUBECTL, LOAD: as cluster-test.sh takes them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/servers/common.sh
. scripts/servers/go.sh
version=2.21.0
module=github.com/kedacore/keda/v2@v$version
: "${KUBECONFIG:?which cluster?}" "${KUBECTL:=kubectl}"
fail() { printf 'keda: %s\n' "$*" >&2; exit 1; }

# The module's folder in Go's own cache.
sources() { (cd / && GOFLAGS='' go mod download -json "$module") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

# build FOLDER: both programs. Other systems' scalers bring a thousand packages, and are taken out.
build() {
  bash -euo pipefail -c "$(declare -f say sources build_in); module=$module version=$version; build_in '$1'"
}

build_in() {
  local source=$1/source program
  cp -r "$(sources)" "$source"
  chmod -R u+w "$source"
  cd "$source"
  find pkg/scalers -maxdepth 1 -name '*_scaler.go' ! -name 'postgresql_*' ! -name 'prometheus_*' ! -name 'cpu_memory_*' -delete
  # One of those that are gone has the constant of all.
  printf 'package scalers\n\nconst externalMetricType = "External"\n' >pkg/scalers/metric_type.go
  awk '/^\tcase "/ { kept = /"(postgresql|prometheus|cpu|memory)"/ } /^\tdefault:/ { kept = 1 }
       /switch triggerType/ { kept = 1; inside = 1; print; next } !inside || kept' pkg/scaling/scalers_builder.go >builder.new
  mv builder.new pkg/scaling/scalers_builder.go
  for program in keda:operator keda-adapter:adapter; do
    say "building ${program%%:*} $version"
    CGO_ENABLED=0 GOFLAGS=-buildvcs=false nice go build -trimpath -ldflags='-s -w' -o "$1/${program%%:*}" "./cmd/${program##*:}"
  done
  cp -r config "$1/config"
  cd /
  rm -rf "$source"
}

manifests() {
  "$KUBECTL" kustomize "$cache/keda-$version/config/minimal" | sed -e 's/imagePullPolicy: Always/imagePullPolicy: IfNotPresent/' \
    -e "s|ghcr.io/kedacore/keda-metrics-apiserver:.*|slipway-test/keda-adapter:$version|" \
    -e "s|ghcr.io/kedacore/keda:.*|slipway-test/keda:$version|"
}

case ${1:-} in
install)
  : "${LOAD:?a command that takes an image archive into the cluster}"
  [ -x "$cache/keda-$version/keda" ] || command -v go >/dev/null || fail "no Go found: install Go 1.$go_needed or later"
  into_cache "keda-$version" keda build || fail "KEDA was not built (the reason stands above)"
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  for program in keda keda-adapter; do
    printf 'FROM scratch\nCOPY %s /%s\nUSER 65532:65532\n' $program $program >"$folder/Dockerfile"
    tar -c -C "$folder" Dockerfile -C "$cache/keda-$version" $program |
      docker build --quiet --network none --tag "slipway-test/$program:$version" - >/dev/null
    docker save --output "$folder/image.tar" "slipway-test/$program:$version"
    $LOAD "$folder/image.tar"
    rm "$folder/image.tar"
  done
  manifests | "$KUBECTL" apply --server-side --filename - >/dev/null
  for deployment in keda-operator keda-metrics-apiserver; do
    "$KUBECTL" --namespace keda rollout status "deployment/$deployment" --timeout=300s >&2
  done
  "$KUBECTL" wait --for=condition=Available apiservice/v1beta1.external.metrics.k8s.io --timeout=120s >&2
  ;;
remove) manifests | "$KUBECTL" delete --ignore-not-found --wait --timeout=180s --filename - >/dev/null ;;
*) fail "install or remove" ;;
esac
