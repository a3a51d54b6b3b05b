"""What belongs to the installation of a data directory: where its data is, and which files are its keys."""

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from slipway_cli.backup.archive import fingerprint
from slipway_cli.backup.refusal import BackupRefusedError
from slipway_cli.supervisor.data_dir import SERVICES, DataDir, Secrets, StackState
from slipway_cli.supervisor.postgres import PostgresServer
from slipway_cli.supervisor.servers_file import RealServers

LOG_KEY = "keys/audit/log.key"
_SECRETS = "secrets.json"
_NEEDED = (_SECRETS, "keys/gateway/signing.pem", "keys/gateway/jwks.json", LOG_KEY)
# Written anew at every start, from secrets.json and the servers' file.
_DERIVED = ("service-secrets.json", "valkey.conf", "directory-secret", "postgres-password")


@dataclass(frozen=True)
class Installation:
    """Addresses, with their passwords; `databases` by service."""

    databases: dict[str, str]
    redis: str
    objects: str
    heads: Path


def running(data_dir: Path, servers: RealServers, state: StackState | None) -> Installation:
    """The installation whose keys are in `data_dir`, while its servers run. Raises BackupRefusedError."""
    if not (data_dir / _SECRETS).is_file():
        raise BackupRefusedError(f"{data_dir} holds no installation: name its folder by --data-dir")
    embedded = [
        name
        for name, url, folder in (("postgres", servers.postgres, "postgres"), ("redis", servers.redis, "valkey"))
        if url is None and (data_dir / folder).is_dir()
    ]
    if embedded and state is None:
        raise BackupRefusedError(
            f"the embedded servers of {data_dir} do not run: start the stack by `slipway up`, or copy the whole folder"
        )
    if (servers.postgres is None and "postgres" not in embedded) or (servers.redis is None and "redis" not in embedded):
        raise BackupRefusedError(f"{data_dir} uses servers of yours: name their file by --servers, as for `slipway up`")
    secrets = DataDir(data_dir).secrets()
    server = servers.postgres_server or PostgresServer.at(state.postgres if state else "")
    redis = servers.redis or _with_password(state.redis if state else "", secrets.valkey)
    return at(data_dir, secrets, server, redis, servers)


def at(data_dir: Path, secrets: Secrets, server: PostgresServer, redis: str, servers: RealServers) -> Installation:
    """The installation of a data directory on servers that are known."""
    return Installation(
        {service: server.database_url(service, secrets) for service in SERVICES},
        redis,
        servers.objects or (data_dir / "objects").as_uri(),
        data_dir / "audit-heads",
    )


def key_files(data_dir: Path) -> dict[str, bytes]:
    """Files of keys and secrets, by their paths in `data_dir`. Raises BackupRefusedError."""
    files = [*data_dir.glob("keys/**/*"), data_dir / _SECRETS, *data_dir.glob("*-secrets.yaml")]
    names = {str(file.relative_to(data_dir)): file for file in files if file.is_file() and file.name not in _DERIVED}
    if missing := [name for name in _NEEDED if name not in names]:
        raise BackupRefusedError(
            f"{data_dir / missing[0]} is missing: `slipway doctor` tells what is wrong with the keys"
        )
    return {name: file.read_bytes() for name, file in names.items()}


def fingerprints(keys: dict[str, bytes]) -> dict[str, str]:
    """Of the keys without which data is of no use. Raises BackupRefusedError for files that hold none."""
    if missing := [name for name in _NEEDED if name not in keys]:
        raise BackupRefusedError(
            f"the keys of the backup lack {missing[0]}: name the file that was made with the backup"
        )
    try:
        data_keys: dict[str, str] = json.loads(keys[_SECRETS])["data_keys"]
        found = {f"data key of {service}": fingerprint(data_keys[service]) for service in SERVICES}
    except (ValueError, KeyError, TypeError):
        raise BackupRefusedError(f"{_SECRETS} among the keys of the backup is damaged: take an older backup") from None
    found["signing key of the audit log"] = fingerprint(keys[LOG_KEY].decode(errors="replace").strip())
    return found


def _with_password(address: str, password: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=f":{password}@{parts.netloc}").geturl()
