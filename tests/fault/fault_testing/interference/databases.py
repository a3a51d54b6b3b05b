"""What is done to PostgreSQL."""

import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import Any, cast

import asyncpg
from slipway_testkit.servers.postgres import PostgresServer

from fault_testing.outages import SERVICES, Outages

# Long enough for workers and outboxes to run into it.
_SECONDS = 5
# Longer than a statement may take.
_LOCKED_SECONDS = 65


def terminate_backends(outages: Outages) -> None:
    """Ends every connection to PostgreSQL, again and again."""
    for _ in range(_SECONDS):
        _sql(
            outages,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        time.sleep(0.5)


def refuse_writes(outages: Outages) -> None:
    """Has PostgreSQL refuse all writes for a while, as a full disk or a failover would."""
    _sql(outages, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        time.sleep(_SECONDS)
    finally:
        _sql(
            outages,
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )


def restart_as_standby(outages: Outages) -> None:
    """Restarts PostgreSQL in recovery, where it answers questions only, and then as it was."""
    postgres = cast(PostgresServer, outages.servers["postgres"])
    data = postgres.folder / "data"
    signal = data / "standby.signal"
    postgres.stop()
    signal.touch()
    os.chown(signal, data.stat().st_uid, data.stat().st_gid)
    postgres.start()
    time.sleep(_SECONDS)
    postgres.stop()
    signal.unlink()
    postgres.start()


def refuse_connections(outages: Outages) -> None:
    """Leaves the services' roles no connection: as if others had taken all that there are."""
    roles = [f"slipway_{service}" for service in SERVICES]
    _sql(outages, *(f"ALTER ROLE {role} CONNECTION LIMIT 0" for role in roles))
    try:
        terminate_backends(outages)
    finally:
        _sql(outages, *(f"ALTER ROLE {role} CONNECTION LIMIT -1" for role in roles))


def change_password(outages: Outages) -> None:
    """Forbids the services' roles to sign in, as a password that was changed does."""
    roles = [f"slipway_{service}" for service in SERVICES]
    _sql(outages, *(f"ALTER ROLE {role} NOLOGIN" for role in roles))
    try:
        terminate_backends(outages)
    finally:
        _sql(outages, *(f"ALTER ROLE {role} LOGIN" for role in roles))


def cancel_statements(outages: Outages) -> None:
    """Gives statements no time: each is cancelled by the server."""
    _sql(outages, "ALTER SYSTEM SET statement_timeout = '1ms'", "SELECT pg_reload_conf()")
    try:
        time.sleep(_SECONDS)
    finally:
        _sql(outages, "SET statement_timeout = 0", "ALTER SYSTEM RESET statement_timeout", "SELECT pg_reload_conf()")


def lock_tables(outages: Outages) -> None:
    """A session of somebody else's holds all tables of all services, for longer than anybody waits for an answer."""
    postgres = cast(PostgresServer, outages.servers["postgres"])

    async def lock() -> None:
        async with AsyncExitStack() as held:
            for service in SERVICES:
                connection: Any = await asyncpg.connect(postgres.url(f"slipway_{service}"))
                held.push_async_callback(connection.close)
                await held.enter_async_context(connection.transaction())
                tables = await connection.fetch(
                    "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
                )
                for (table,) in tables:
                    await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(_LOCKED_SECONDS)

    asyncio.run(lock())


def _sql(outages: Outages, *statements: str) -> None:
    postgres = cast(PostgresServer, outages.servers["postgres"])

    async def run() -> None:
        connection: Any = await asyncpg.connect(postgres.url())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())
