"""`slipway up --servers FILE`: real servers in place of the embedded ones."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from slipway_cli.checks.brokers import check_rabbitmq, check_redis
from slipway_cli.checks.finding import Finding
from slipway_cli.checks.identity import Identity, check_identity, read_identity, wrong_identity
from slipway_cli.checks.objects import check_objects
from slipway_cli.checks.postgres import check_postgres
from slipway_cli.checks.vectors import check_vectors, wrong_vectors_url
from slipway_cli.supervisor.postgres import PostgresServer
from slipway_cli.supervisor.refusal import StartRefusedError

_SCHEMES = {
    "postgres": ("postgres", "postgresql"),
    "redis": ("redis", "rediss", "valkey"),
    "bus": ("amqp", "amqps", "redis", "rediss", "valkey"),
    "vectors": ("weaviate",),
    "objects": ("s3", "file"),
}
_KEYS = (*_SCHEMES, "identity")
_PORTS = {"postgres": 5432, "postgresql": 5432, "redis": 6379, "rediss": 6379, "valkey": 6379, "amqp": 5672}
_PORTS["amqps"] = 5671
_SECRET = re.compile(r"//[^/@\s]*@")


@dataclass(frozen=True)
class RealServers:
    """Addresses of real servers; None where the embedded one is used.

    `postgres` is the address of an administrator (databases and roles are made there), `redis` of a Redis or Valkey,
    `bus` of RabbitMQ (amqp://) or again of a Redis, `vectors` of a Weaviate, `objects` of an S3 bucket or a folder.
    """

    postgres: str | None = None
    redis: str | None = None
    bus: str | None = None
    vectors: str | None = None
    objects: str | None = None
    identity: Identity | None = None

    @property
    def postgres_server(self) -> PostgresServer | None:
        """The PostgreSQL server as the supervisor uses it."""
        return PostgresServer.at(self.postgres) if self.postgres else None

    async def check(self) -> list[Finding]:
        """Asks every server, at the same time; writes nothing."""
        asked = []
        if self.postgres:
            asked.append(check_postgres(self.postgres, _place(self.postgres)))
        if self.redis:
            asked.append(check_redis("redis", self.redis, _place(self.redis)))
        if self.bus and urlsplit(self.bus).scheme.startswith("amqp"):
            asked.append(check_rabbitmq(self.bus, _place(self.bus)))
        elif self.bus:
            asked.append(check_redis("bus", self.bus, _place(self.bus)))
        if self.vectors:
            asked.append(check_vectors(self.vectors, _place(self.vectors)))
        if self.objects:
            asked.append(check_objects(self.objects))
        if self.identity:
            asked.append(check_identity(self.identity))
        return [_without_secrets(finding) for found in await asyncio.gather(*asked) for finding in found]

    async def refuse_unusable(self) -> list[Finding]:
        """The findings of `check`; raises StartRefusedError with all that forbid a start."""
        found = await self.check()
        if wrong := [finding.sentence for finding in found if finding.level == "fail"]:
            raise StartRefusedError("the servers of --servers can't be used:\n  " + "\n  ".join(wrong))
        return found


def _place(url: str) -> str:
    """Host and port, without user, password and parameters."""
    parts = urlsplit(url)
    if parts.hostname is None and (socket := parse_qs(parts.query).get("host")):
        return socket[0]
    host = parts.hostname or "127.0.0.1"
    port = parts.port or _PORTS.get(parts.scheme)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def without_user(url: str) -> str:
    """A URL without its user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _without_secrets(finding: Finding) -> Finding:
    # Libraries' messages are passed on, and some of them quote the URL.
    return Finding(finding.level, finding.subject, _SECRET.sub("//", finding.text), finding.remedy)


def read_servers(file: Path) -> RealServers:
    """Reads the file. Raises StartRefusedError that names the key that is wrong, without its secrets."""
    try:
        content = YAML(typ="safe").load(file)
    except OSError as error:
        raise StartRefusedError(f"{file} cannot be read: {error.strerror}") from None
    except YAMLError as error:
        raise StartRefusedError(f"{file} cannot be read: it is no YAML{_line(error)}") from None
    except UnicodeDecodeError:
        raise StartRefusedError(f"{file} cannot be read: it is no UTF-8 text") from None
    if not isinstance(content, dict) or not content:
        raise StartRefusedError(f"{file} must map server names to URLs, such as `bus: amqp://…`")
    for key, value in content.items():
        if wrong := _wrong(key, value):
            raise StartRefusedError(f"{file}: {wrong}")
    if "identity" in content:
        content["identity"] = read_identity(content["identity"])
    return RealServers(**content)


def _wrong(key: object, value: Any) -> str | None:
    if key not in _KEYS:
        return f"unknown server {key!r}; known are {', '.join(_KEYS)}"
    if key == "identity":
        wrong = wrong_identity(value)
        return f"identity {wrong}" if wrong else None
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        well_formed = (
            parts is not None and parts.scheme in _SCHEMES[str(key)] and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        return f"{key} is no URL: write special characters of users and passwords as %XX, addresses of IPv6 in []"
    if not well_formed:
        schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES[str(key)])
        return f"{key} must be a URL that starts with one of {schemes}"
    if key == "vectors" and (wrong := wrong_vectors_url(value)):
        return f"vectors {wrong}"
    return None


def _line(error: YAMLError) -> str:
    # Not the error itself: it quotes the line, and passwords with it.
    mark = getattr(error, "problem_mark", None)
    return f" (line {mark.line + 1})" if mark is not None else ""
