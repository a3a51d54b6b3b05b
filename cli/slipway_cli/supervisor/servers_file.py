"""`slipway up --servers FILE`: real servers in place of the embedded ones."""

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


class RealServers:
    """Addresses of real servers; None where the embedded one is used.

    `postgres` is the address of a superuser (databases and roles are made there), `redis` of a Redis or Valkey, `bus`
    of RabbitMQ (amqp://) or again of a Redis.
    """

    def __init__(self, postgres: str | None = None, redis: str | None = None, bus: str | None = None) -> None:
        self.postgres = _postgres(postgres) if postgres else None
        self.redis = redis
        self.bus = bus


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
