# Weaviate, versitygw, gVisor and Helm, built by Go from their modules at pinned versions.
# shellcheck shell=bash

# binary, version of the module, folder in the cache, package, and what is skipped without it
go_programs=(
  "versitygw|v1.8.0|versitygw-1.8.0|github.com/versity/versitygw/cmd/versitygw|tests of S3-compatible object stores"
  "runsc|v0.0.0-20260701204157-69c2d17aea96|runsc-20260701|gvisor.dev/gvisor/runsc|tests of the gVisor sandbox; tools then run code in nsjail only"
  "helm|v3.22.0|helm-3.22.0|helm.sh/helm/v3/cmd/helm|checks of the Helm chart"
  "weaviate-server|v1.39.0|weaviate-1.39.0|github.com/weaviate/weaviate/cmd/weaviate-server|tests of memory on Weaviate"
)
go_needed=26

go_servers() {
  local row binary version folder package without reason=""
  if ! command -v go >/dev/null; then
    reason="no Go found. Install Go 1.$go_needed or later and put it on PATH"
  elif go_is_too_old; then
    reason="$(go env GOVERSION) is too old. Install Go 1.$go_needed or later"
  fi
  for row in "${go_programs[@]}"; do
    IFS='|' read -r binary version folder package without <<<"$row"
    if ! [[ -x $cache/$folder/$binary ]]; then
      if [[ -n $reason ]]; then
        missing "no $binary: $reason; without it are skipped: $without"
        continue
      fi
      say "building $binary ($folder)"
      into_cache "$folder" "$binary" go_build "$binary" "$package@$version" || {
        missing "Go could not build $binary (its reason stands above); without it are skipped: $without"
        continue
      }
    fi
    link "$cache/$folder/$binary" "bin/$binary"
  done
}

go_is_too_old() {
  local version
  version=$(go env GOVERSION)
  [[ $version =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] < go_needed)) && [[ $(go env GOTOOLCHAIN) == local ]]
}

# go_build BINARY PACKAGE@VERSION FOLDER: with one line of progress each 100 modules and packages, errors in full.
go_build() {
  three_times go_install "$3" "$2" "$1"
}

go_install() (
  set -o pipefail
  # From a folder without a module, whatever the checkout becomes.
  cd "$1" || exit
  CGO_ENABLED=0 GOBIN=$1 GOFLAGS='' nice go install -v "$2" 2>&1 | awk -v name="$3" '
    /^go: downloading / { fetched++ }
    /^go: / && !/^go: downloading / { print }
    /^[a-zA-Z0-9._~\/-]+$/ { compiled++ }
    !/^[a-zA-Z0-9._~\/-]+$/ && !/^go: / { print }
    (fetched + compiled) % 100 == 0 && fetched + compiled != told {
      told = fetched + compiled
      printf "servers: %s: %d modules fetched, %d packages compiled\n", name, fetched, compiled
    }
    { fflush() }' >&2
)
