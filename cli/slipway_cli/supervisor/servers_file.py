"""`slipway up --servers FILE`: real servers in place of the embedded ones."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from slipway_cli.supervisor.postgres import PostgresServer
from slipway_cli.supervisor.refusal import StartRefusedError

_SCHEMES = {
    "postgres": ("postgres", "postgresql"),
    "redis": ("redis", "rediss", "valkey"),
    "bus": ("amqp", "amqps", "redis", "rediss", "valkey"),
}
_PORTS = {"redis": 6379, "rediss": 6379, "valkey": 6379, "amqp": 5672, "amqps": 5671}
_CONNECT_SECONDS = 10.0


class RealServers:
    """Addresses of real servers; None where the embedded one is used.

    `postgres` is the address of a superuser (databases and roles are made there), `redis` of a Redis or Valkey, `bus`
    of RabbitMQ (amqp://) or again of a Redis.
    """

    def __init__(self, postgres: str | None = None, redis: str | None = None, bus: str | None = None) -> None:
        self.postgres = _postgres(postgres) if postgres else None
        self.redis = redis
        self.bus = bus

    async def refuse_unreachable(self) -> None:
        """Raises StartRefusedError for a Redis or bus that nothing listens at.

        Without it every service waits for such a server for its whole time to start. PostgreSQL is asked when the
        databases are made.
        """
        for name, url in (("redis", self.redis), ("bus", self.bus)):
            if url is not None:
                await _refuse_unreachable(name, url)


async def _refuse_unreachable(name: str, url: str) -> None:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or _PORTS[parts.scheme]
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        reason = str(error) or f"no answer in {_CONNECT_SECONDS:g} s"
        # Not the URL: it may hold a password.
        raise StartRefusedError(
            f"{name} at {host}:{port} cannot be reached ({reason}): start it, or correct its entry in --servers"
        ) from None
    writer.close()


def _postgres(url: str) -> PostgresServer:
    parts = urlsplit(url)
    return PostgresServer(parts.hostname or "127.0.0.1", parts.port or 5432, url)


def read_servers(file: Path) -> RealServers:
    """Reads the file. Raises StartRefusedError that names the entry that is wrong."""
    try:
        content = YAML(typ="safe").load(file)
    except (OSError, YAMLError) as error:
        raise StartRefusedError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict) or not content:
        raise StartRefusedError(f"{file} must map server names to URLs, such as `bus: amqp://…`")
    for name, url in content.items():
        if name not in _SCHEMES:
            raise StartRefusedError(f"{file}: unknown server {name!r}; known are {', '.join(_SCHEMES)}")
        if not isinstance(url, str) or urlsplit(url).scheme not in _SCHEMES[name]:
            schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES[name])
            raise StartRefusedError(f"{file}: {name} must be a URL that starts with one of {schemes}")
    return RealServers(**content)
