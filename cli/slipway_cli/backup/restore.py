"""Making a new installation of a backup."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from redis.asyncio import Redis
from rich.console import Console

from slipway_cli.backup import archive, databases, installation, keys, service, sessions
from slipway_cli.backup.archive import Manifest
from slipway_cli.backup.installation import Installation
from slipway_cli.backup.refusal import BackupRefusedError
from slipway_cli.backup.take import Tell
from slipway_cli.checks.vectors import holds_passages
from slipway_cli.supervisor import postgres, valkey
from slipway_cli.supervisor.data_dir import SERVICES, DataDir, Secrets, write_private
from slipway_cli.supervisor.events import Events
from slipway_cli.supervisor.ports import free_ports
from slipway_cli.supervisor.postgres import PostgresServer
from slipway_cli.supervisor.servers_file import RealServers
from slipway_cli.supervisor.supervise import Supervisor

_EMBEDDED_POSTGRES = 18
_SECONDS = 10


async def restore(
    folder: Path,
    keys_file: Path,
    passphrase: str | None,
    data_dir: Path,
    servers: RealServers,
    newest_heads: Path | None,
    tell: Tell,
) -> Manifest:
    """Makes the installation `data_dir`, which must not be there, on servers that hold none.

    All that can be wrong with backup, keys and servers is found before anything is written; when it fails later, what
    was made is taken away again. `newest_heads`: folder of signed heads of the old installation that are newer than
    the backup's. Raises BackupRefusedError, StartRefusedError for servers that can't be used.
    """
    tell("looking at the backup")
    manifest = archive.read(folder)
    contents = keys.read(keys_file, passphrase)
    _refuse_other_keys(manifest, contents, keys_file)
    building = _beside(data_dir)
    await servers.refuse_unusable()
    if servers.postgres_server:
        await _refuse_occupied(servers.postgres_server)
    if servers.vectors and await holds_passages(servers.vectors):
        raise BackupRefusedError(
            "the key `vectors` names a Weaviate that holds passages under that name: name an empty one, or add "
            "collection=NAME with a name of its own"
        )
    await _refuse_older_postgres(manifest, servers.postgres_server)
    await _refuse_unknown_migrations(manifest)
    directory = DataDir(building)
    directory.acquire()
    try:
        await _build(directory, folder, contents, servers, newest_heads, tell)
        directory.release()
        _take_place(building, data_dir)
    except BaseException as error:
        directory.release()
        await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)
        if isinstance(error, OSError):
            raise BackupRefusedError(
                f"{data_dir} can't be written ({error.strerror or error}): make room there, or name another --data-dir"
            ) from None
        raise
    return manifest


def _beside(data_dir: Path) -> Path:
    """Where the installation is made, to be moved to its place once it is whole."""
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise BackupRefusedError(f"{data_dir} is not empty: a backup makes a new installation, name another --data-dir")
    building = data_dir.with_name(f".{data_dir.name}.restoring")
    if building.exists():
        raise BackupRefusedError(
            f"{building} was left by a restore that was killed: remove it, and what it made on servers of yours"
        )
    return building


def _take_place(building: Path, data_dir: Path) -> None:
    if data_dir.exists():
        data_dir.rmdir()
    building.rename(data_dir)


async def _build(
    directory: DataDir,
    folder: Path,
    contents: dict[str, bytes],
    servers: RealServers,
    newest_heads: Path | None,
    tell: Tell,
) -> None:
    for name, content in contents.items():
        file = directory.path / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(file, content.decode())
    for name in ("objects", "audit-heads"):
        (directory.path / name).mkdir(mode=0o700)
    _copy_heads(folder / "heads", directory.path / "audit-heads")
    if newest_heads is not None:
        _copy_heads(newest_heads, directory.path / "audit-heads")
    secrets = directory.secrets()
    async with _servers(directory, secrets, servers) as (server, redis):
        target = installation.at(directory.path, secrets, server, redis, servers)
        client = sessions.connect(redis)
        try:
            if servers.redis and not await sessions.is_empty(client):
                raise BackupRefusedError("the key `redis` names a server that holds sessions: name an empty one")
            if servers.objects and await service.has_objects(target, folder / "objects"):
                raise BackupRefusedError("the key `objects` names a store that is not empty: name another prefix")
            try:
                tell("objects")
                await service.load_objects(target, folder / "objects")
                tell("sessions")
                await sessions.load(client, folder / "sessions.jsonl")
                tell("databases")
                await postgres.prepare(server, secrets)
                await databases.load(target.databases, folder / "databases")
                await service.go_on(target, directory.path)
            except BaseException:
                await _take_away(target, server, client, servers, folder, tell)
                raise
        finally:
            await client.aclose()


async def _take_away(
    target: Installation, server: PostgresServer, client: Redis, servers: RealServers, folder: Path, tell: Tell
) -> None:
    """Leaves servers of the user's as they were: they held nothing. Those of the data directory go with it."""
    steps: dict[str, Callable[[], Awaitable[object]]] = {}
    if servers.postgres:
        steps["postgres"] = lambda: _drop(server)
    if servers.objects:
        steps["objects"] = lambda: service.remove_objects(target, folder / "objects")
    if servers.redis:
        steps["redis"] = lambda: sessions.remove(client, folder / "sessions.jsonl")
    for name, step in steps.items():
        try:
            await step()
        except (BackupRefusedError, OSError, asyncpg.PostgresError) as error:
            tell(f"the server of the key `{name}` keeps what was restored to it ({error}): empty it")


@asynccontextmanager
async def _servers(
    directory: DataDir, secrets: Secrets, servers: RealServers
) -> AsyncGenerator[tuple[PostgresServer, str]]:
    """The servers of the installation; those that are embedded run for the time of the block."""
    environment = dict(os.environ)
    port, valkey_port = free_ports(2)
    server = servers.postgres_server or postgres.embedded(port, secrets)
    redis = servers.redis or valkey.url(valkey_port, secrets)
    processes = []
    if servers.postgres is None:
        await postgres.initialise(directory, secrets, environment)
        processes.append(postgres.process(directory, server, secrets, environment))
    if servers.redis is None:
        processes.append(valkey.process(directory, valkey_port, secrets, environment))
    supervisor = Supervisor(processes, logs=directory.logs, events=Events(Console(quiet=True)))
    try:
        await supervisor.start(asyncio.Event())
        yield server, redis
    finally:
        await supervisor.stop()


def _refuse_other_keys(manifest: Manifest, contents: dict[str, bytes], keys_file: Path) -> None:
    found = installation.fingerprints(contents)
    for name, mark in manifest.keys.items():
        if found.get(name) != mark:
            raise BackupRefusedError(
                f"the {name} in {keys_file} is not that of this backup: name the file that was made with it by --keys"
            )


async def _refuse_unknown_migrations(manifest: Manifest) -> None:
    ours = await asyncio.gather(*(service.migrations(name) for name in SERVICES))
    for name, known in zip(SERVICES, ours, strict=True):
        for migration, digest in manifest.migrations.get(name, {}).items():
            if known.get(migration) != digest:
                raise BackupRefusedError(
                    f"the backup is of a newer release: its database of {name} has the migration {migration}, which "
                    "this one does not know; restore it with that release or a later one"
                )
    if missing := [name for name in SERVICES if name not in manifest.migrations]:
        raise BackupRefusedError(f"the backup has no database of {missing[0]}: take another")


async def _refuse_occupied(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.admin_url, timeout=_SECONDS)
    try:
        there = await connection.fetch(
            "SELECT datname AS name FROM pg_database WHERE datname = ANY($1)"
            " UNION SELECT rolname FROM pg_roles WHERE rolname = ANY($1) ORDER BY name",
            [f"slipway_{name}" for name in SERVICES],
        )
    finally:
        await connection.close()
    if there:
        raise BackupRefusedError(
            f"the PostgreSQL server at {server.host}:{server.port} has {there[0]['name']} already, of another "
            "installation: name an empty server in the key `postgres`"
        )


async def _refuse_older_postgres(manifest: Manifest, server: PostgresServer | None) -> None:
    major = _EMBEDDED_POSTGRES
    if server is not None:
        connection = await asyncpg.connect(server.admin_url, timeout=_SECONDS)
        major = connection.get_server_version().major
        await connection.close()
    if major < manifest.postgres:
        raise BackupRefusedError(
            f"the backup is of PostgreSQL {manifest.postgres}, the server is {major}: use {manifest.postgres} or later"
        )


async def _drop(server: PostgresServer) -> None:
    """Takes away what `prepare` made, on a server that had none of it before."""
    admin = await asyncpg.connect(server.admin_url, timeout=_SECONDS)
    try:
        for name in SERVICES:
            await admin.execute(f"DROP DATABASE IF EXISTS slipway_{name} WITH (FORCE)")
            await admin.execute(f"DROP ROLE IF EXISTS slipway_{name}")
    finally:
        await admin.close()


def _copy_heads(source: Path, target: Path) -> None:
    for file in source.glob("*.heads.jsonl"):
        shutil.copyfile(file, target / file.name)
