"""The databases of all services as they were at one moment.

PostgreSQL has no snapshot over several databases. Six snapshots, a few milliseconds apart, do as well when they are
taken in an order, and while audit's log stands still:

- What audit has is deleted from outboxes, and what it has was committed elsewhere first. While nobody may append to the
  log, each event is in the log, or in the outbox of whom it came from, and none is in the log alone.
- The orchestrator comes before those who act for it. An effect that happens in between is then on record with its key
  where it happened, while the journal only has the intent: who takes the run up again asks under that key, and is
  answered from the record. The other way round it would happen twice.
- Memory comes after the tools and the router: files and documents that their records name are there.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from slipway_cli.backup import programs
from slipway_cli.backup.refusal import BackupRefusedError

ORDER = ("orchestrator", "tools", "router", "memory", "gateway", "audit")
# How long appends to the log may have to wait behind our wish for the lock, in milliseconds, and how often we wish.
_LOCK_TIMEOUT, _ATTEMPTS = 1000, 20
_SECONDS = 10


@dataclass(frozen=True)
class Snapshots:
    """What was held at `time`: by service the name of a snapshot, and the migrations that its database has."""

    time: datetime
    postgres: int
    names: Mapping[str, str]
    migrations: Mapping[str, dict[str, str]]


@asynccontextmanager
async def hold_snapshots(
    urls: Mapping[str, str], at_that_moment: Callable[[], None] = lambda: None
) -> AsyncGenerator[Snapshots]:
    """Snapshots of the databases, for as long as the block lasts.

    `at_that_moment` is called while the log stands still. `urls`: by service, of an owner of its tables.
    Raises BackupRefusedError.
    """
    async with AsyncExitStack() as stack:
        order = [service for service in ORDER if service in urls]
        connections = {service: await stack.enter_async_context(_connection(urls[service])) for service in order}
        names: dict[str, str] = {}
        async with _log_stands_still(urls):
            time = datetime.now(UTC)
            for service in order:
                await stack.enter_async_context(
                    connections[service].transaction(isolation="repeatable_read", readonly=True)
                )
                names[service] = await connections[service].fetchval("SELECT pg_export_snapshot()")
            at_that_moment()
        migrations = {service: await _migrations(service, connections[service]) for service in order}
        version = min(connection.get_server_version().major for connection in connections.values())
        yield Snapshots(time, version, names, migrations)


async def dump(urls: Mapping[str, str], snapshots: Snapshots, folder: Path) -> None:
    """Writes `SERVICE.dump` for each database. Raises BackupRefusedError."""
    program = await programs.find("pg_dump", snapshots.postgres)
    for service, name in snapshots.names.items():
        await programs.run(
            program,
            urls[service],
            "--format=custom",
            "--no-owner",
            "--no-acl",
            "--no-comments",
            f"--snapshot={name}",
            f"--file={folder / f'{service}.dump'}",
        )


async def load(urls: Mapping[str, str], folder: Path) -> None:
    """Fills empty databases, each whole or not at all. Raises BackupRefusedError."""
    async with _connection(next(iter(urls.values()))) as connection:
        version = connection.get_server_version().major
    program = await programs.find("pg_restore", version)
    for service, url in urls.items():
        await programs.run(
            program,
            url,
            "--no-owner",
            "--no-acl",
            "--single-transaction",
            "--exit-on-error",
            folder / f"{service}.dump",
        )


@asynccontextmanager
async def _connection(url: str) -> AsyncGenerator[Any]:
    try:
        connection = await asyncpg.connect(
            url, timeout=_SECONDS, server_settings={"idle_in_transaction_session_timeout": "0"}
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        place, said = url.rpartition("@")[2].partition("?")[0], str(error) or "no answer"
        raise BackupRefusedError(
            f"the database {place} can't be reached ({said}): start its server; see `slipway doctor`"
        ) from None
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _log_stands_still(urls: Mapping[str, str]) -> AsyncGenerator[None]:
    if "audit" not in urls:
        yield
        return
    async with _connection(urls["audit"]) as connection:
        if await connection.fetchval("SELECT to_regclass('audit_log')") is None:
            raise BackupRefusedError("the database of audit has no log: start the services once before a backup")
        await connection.execute(f"SET lock_timeout = {_LOCK_TIMEOUT}")
        for attempt in range(1, _ATTEMPTS + 1):
            transaction = connection.transaction()
            await transaction.start()
            try:
                # Appends and new generations write to this table; readers and whoever exports evidence do not.
                await connection.execute("LOCK TABLE audit_log IN SHARE MODE")
            except asyncpg.LockNotAvailableError:
                await transaction.rollback()
                if attempt == _ATTEMPTS:
                    raise BackupRefusedError(
                        "the audit log is never quiet: look for a transaction that stays open in its database"
                    ) from None
                await asyncio.sleep(0.2)
                continue
            try:
                yield
            finally:
                await transaction.rollback()
            return


async def _migrations(service: str, connection: Any) -> dict[str, str]:
    try:
        return dict(await connection.fetch("SELECT name, digest FROM slipway_migration"))
    except asyncpg.UndefinedTableError:
        raise BackupRefusedError(
            f"the database of {service} is empty: start the services once before a backup"
        ) from None
