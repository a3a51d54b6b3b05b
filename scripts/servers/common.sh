# Shared by scripts/servers.sh and its parts: where things are, what is said, what is missing at the end.
# shellcheck shell=bash

cache="${XDG_CACHE_HOME:-$HOME/.cache}/slipway/servers"
linked="$PWD/.servers"
missing=()

say() { printf 'servers: %s\n' "$*" >&2; }

# missing SENTENCE: told at once, and again at the end with exit status 1; what can be installed is installed all the same.
missing() {
  say "$1"
  missing+=("$1")
}

# three_times COMMAND...: downloads fail now and then.
three_times() {
  local attempt
  for attempt in 1 2 3; do
    "$@" && return
    ((attempt == 3)) || {
      say "that failed; again in $((attempt * 5)) s (attempt $((attempt + 1)) of 3)"
      sleep $((attempt * 5))
    }
  done
  return 1
}

# link TARGET NAME: .servers/NAME shows TARGET. A link that is right already is left alone.
link() {
  [[ $(readlink "$linked/$2") == "$1" ]] || {
    mkdir -p "$(dirname "$linked/$2")"
    ln -sfn "$1" "$linked/$2"
  }
}

# into_cache NAME-VERSION PROGRAM COMMAND...: has the command fill a new folder (its last argument) that then becomes
# $cache/NAME-VERSION, whole or not at all; PROGRAM in it shows that it is there. One process at a time builds: another
# checkout's waits and finds it done.
into_cache() {
  local name=$1 program=$2 building="$cache/.new-$1" status=0
  shift 2
  mkdir -p "$cache"
  exec 9>"$cache/.lock-$name"
  flock -n 9 || {
    say "$name is being built by another process; waiting for it"
    flock 9
  }
  if ! [[ -x $cache/$name/$program ]]; then
    # What a killed build left.
    rm -rf "$building" "${cache:?}/$name"
    mkdir "$building"
    "$@" "$building" || status=$?
    if ((status == 0)); then
      mv -T "$building" "$cache/$name"
    fi
    rm -rf "$building"
  fi
  exec 9>&-
  return "$status"
}
