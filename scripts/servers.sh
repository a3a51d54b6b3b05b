#!/usr/bin/env bash
# Installs the real servers that tests use and that `slipway up --servers` can run on: PostgreSQL, Redis, RabbitMQ and
# Prometheus from Debian; Weaviate, versitygw, gVisor and Helm through Go; Keycloak through Maven. What is built here goes
# to the user's cache folder, where the next checkout finds it, and is linked in .servers/. Nothing is started. What is
# there already stays as it is. Exit status 1, with the reasons, when something could not be installed; all the rest
# then is.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

for part in common debian go keycloak; do
  # shellcheck source=/dev/null
  . "scripts/servers/$part.sh"
done

debian_servers
go_servers
keycloak_server

if ((${#missing[@]})); then
  say "not everything is there:"
  for sentence in "${missing[@]}"; do
    say "- $sentence"
  done
  exit 1
fi
say "all are installed (.servers/, and Debian's packages)"
