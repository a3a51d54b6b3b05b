# PostgreSQL with pgvector, Redis, RabbitMQ and Prometheus, from Debian's packages. No daemon is started: tests start
# their own.
# shellcheck shell=bash

debian_servers() {
  local wanted=()
  [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] || wanted+=(rabbitmq-server)
  command -v redis-server >/dev/null || wanted+=(redis-server)
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || wanted+=(postgresql)
  command -v promtool >/dev/null || wanted+=(prometheus)
  command -v setpriv >/dev/null || wanted+=(util-linux)
  ((${#wanted[@]} == 0)) && return

  local without="without them the tests on Debian's PostgreSQL, Redis and RabbitMQ and those of the alert rules are skipped; everything else works"
  if ! command -v apt-get >/dev/null; then
    missing "missing: ${wanted[*]}. This system has no apt-get: install them as it does that; $without"
  elif ((EUID != 0)); then
    missing "missing: ${wanted[*]}. Ask this machine's administrator for \`apt-get update && apt-get install --no-install-recommends ${wanted[*]}\`; $without"
  else
    say "installing ${wanted[*]}"
    apt_install "${wanted[@]}" || missing "apt-get could not install ${wanted[*]} (its reason stands above); $without"
  fi
}

apt_install() (
  # Debian's packages start their daemons unless a policy forbids it. A policy that is there is the administrator's.
  policy=/usr/sbin/policy-rc.d
  if ! [[ -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  export DEBIAN_FRONTEND=noninteractive
  three_times apt-get -q -o Acquire::Retries=3 update >&2 &&
    three_times apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends "$@" >&2
)
