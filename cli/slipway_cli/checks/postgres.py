"""A PostgreSQL server, asked as its administrator; nothing is written."""

from typing import Any

import asyncpg

from slipway_cli.checks.finding import Finding

_LEAST = 15
_SECONDS = 10
# Each of the six services has a pool of ten, and each worker one more.
_CONNECTIONS = 100


async def check_postgres(url: str, place: str) -> list[Finding]:
    """Reachable, new enough, with the rights to make databases and roles, and with pgvector."""
    try:
        connection = await asyncpg.connect(url, timeout=_SECONDS)
    except Exception as error:  # noqa: BLE001 # whatever keeps us out is told
        return [_no_connection(error, place)]
    try:
        return await _look(connection, place)
    finally:
        await connection.close()


def _no_connection(error: Exception, place: str) -> Finding:
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return Finding(
                "fail", "postgres", f"{place} refuses the user or the password", "correct them in the key `postgres`"
            )
        case asyncpg.InvalidCatalogNameError():
            return Finding(
                "fail",
                "postgres",
                f"{place} has no such database",
                "name the database `postgres` in the key `postgres`",
            )
        case OSError() | TimeoutError():
            reason = str(error) or f"no answer in {_SECONDS} s"
            return Finding(
                "fail", "postgres", f"{place} cannot be reached ({reason})", "start it, or correct the key `postgres`"
            )
        case _:
            return Finding("fail", "postgres", f"{place} takes no connection ({error})", "correct the key `postgres`")


async def _look(connection: Any, place: str) -> list[Finding]:
    version = connection.get_server_version()
    if version.major < _LEAST:
        return [Finding("fail", "postgres", f"{place} is PostgreSQL {version.major}", f"use version {_LEAST} or later")]
    if await connection.fetchval("SHOW transaction_read_only") == "on":
        standby = await connection.fetchval("SELECT pg_is_in_recovery()")
        what = "is a standby" if standby else "is set to take no writes (default_transaction_read_only)"
        remedy = "name the primary in the key `postgres`" if standby else "switch that off"
        return [Finding("fail", "postgres", f"{place} {what}", remedy)]
    found: list[Finding] = []
    may = await connection.fetchrow(
        "SELECT rolsuper, rolsuper OR rolcreatedb AS databases, rolsuper OR rolcreaterole AS roles"
        " FROM pg_roles WHERE rolname = current_user"
    )
    if may is None or not (may["databases"] and may["roles"]):
        found.append(
            Finding(
                "fail",
                "postgres",
                f"the user at {place} may not make databases and roles",
                "name a superuser in the key `postgres`, or one with CREATEDB and CREATEROLE",
            )
        )
    if not await connection.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
        found.append(
            Finding(
                "fail",
                "postgres",
                f"{place} has no pgvector",
                f"install its extension `vector` there (Debian: postgresql-{version.major}-pgvector)",
            )
        )
    connections = await connection.fetchval("SELECT current_setting('max_connections')::int")
    if connections < _CONNECTIONS:
        found.append(
            Finding(
                "warn",
                "postgres",
                f"{place} takes {connections} connections",
                f"set max_connections to {_CONNECTIONS} or more: services with their workers want as many",
            )
        )
    return found or [Finding("ok", "postgres", f"PostgreSQL {version.major}.{version.minor} at {place}")]
