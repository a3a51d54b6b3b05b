#!/bin/sh
# Installs the real servers that tests use (RabbitMQ, Redis, PostgreSQL) from Debian. Tests start them by themselves, on
# free ports and in temporary folders: no daemon is started here, and what is installed already stays as it is.
set -eu

say() { printf 'servers: %s\n' "$*" >&2; }

missing=
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing="$missing rabbitmq-server"
command -v redis-server >/dev/null || missing="$missing redis-server"
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
command -v setpriv >/dev/null || missing="$missing util-linux"
if [ -z "$missing" ]; then
  say "RabbitMQ, Redis and PostgreSQL are installed"
  exit 0
fi

command -v apt-get >/dev/null || {
  say "missing:$missing. They are installed by apt-get here, which this system does not have."
  say "Without them the tests that need them are skipped; everything else works."
  exit 1
}
[ "$(id -u)" -eq 0 ] || {
  say "missing:$missing. Ask the administrator of this machine for:"
  say "  apt-get update && apt-get install --no-install-recommends$missing"
  say "Without them the tests that need them are skipped; everything else works."
  exit 1
}

# Debian's packages start their daemons unless a policy forbids it. A policy that is there is the administrator's.
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi

say "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o Acquire::Retries=3 update >&2
# shellcheck disable=SC2086 # a list of words
apt-get -q -y -o Acquire::Retries=3 install --no-install-recommends $missing >&2
say "installed$missing"
