"""A PostgreSQL: why it takes no connection, and whether database and role are fit for a service."""

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from slipway_chassis.server_checks import ServerAway, ServerRefuses
from slipway_chassis.server_checks.reasons import (
    away,
    chain,
    place,
    refuse_unreadable_files,
    tls_refusal,
)

POSTGRES_LEAST = 15

_PORT = 5432
_SECONDS = 10
_PASSES = ("08", "53", "57")  # classes of errors that may pass: connection, resources, an operator
_WORST_SKEW = 5.0  # seconds; leases and schedules go by the server's clock, tokens by this machine's
_FILES = ("sslrootcert", "sslcert", "sslkey")
_ABOUT = """
SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS called,
    current_setting('server_encoding') AS encoding, current_setting('transaction_read_only') = 'on' AS read_only,
    pg_is_in_recovery() AS standby, current_schema() AS schema, current_user AS role, clock_timestamp() AS clock,
    has_schema_privilege(current_schema(), 'CREATE') AS may_create,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS super,
    has_database_privilege(current_database(), 'CREATE') AS may_extend,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS connections,
    (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user) AS role_limit,
    (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()) AS database_limit
"""
# Tables of the schema that no extension brought, and whether the role may read and write them.
_TABLES = """
SELECT c.relname AS name, has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AS writable
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.relname
"""
_EXTENSION = """
SELECT installed_version IS NOT NULL AS installed,
    coalesce((SELECT bool_or(v.trusted) FROM pg_available_extension_versions v WHERE v.name = e.name), false) AS trusted
FROM pg_available_extensions e WHERE name = $1
"""


@dataclass(frozen=True)
class Wanted:
    """What a service needs of its database: connections at a time, its migrations by name, extensions.

    `applies`: migrations are to be applied now.
    """

    connections: int
    migrations: tuple[str, ...]
    extensions: tuple[str, ...] = ()
    applies: bool = True


async def check_postgres(url: str, wanted: Wanted) -> list[str]:
    """Ask the server as the service's role. See the package."""
    refuse_unreadable_files(url, _FILES)
    try:
        connection = await asyncpg.connect(url, timeout=_SECONDS, command_timeout=_SECONDS)
    except Exception as error:  # noqa: BLE001 - whatever keeps us out is told
        if refusal := refuses(error, url):
            raise ServerRefuses(refusal) from None
        raise ServerAway(why_away(error, url)) from None
    try:
        return await _look(connection, wanted, place(url, _PORT))
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise ServerAway(away(error, "PostgreSQL", place(url, _PORT))) from None
    finally:
        connection.terminate()


def refuses(error: BaseException, url: str) -> str:
    """Why the server will not take the connection, however long one waits; empty if it may."""
    where = place(url, _PORT)
    if refusal := tls_refusal(error, authority="sslrootcert", plain="write sslmode=disable"):
        return refusal
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"{where} refuses the user or the password ({error}): correct them, or pg_hba.conf there"
        case asyncpg.InvalidCatalogNameError():
            return f"{where} has no such database ({error}): create it, or correct the name"
        case asyncpg.InsufficientPrivilegeError():
            return f"{where} does not let the role in ({error}): GRANT CONNECT ON DATABASE … TO it"
        case ConnectionError() if "rejected SSL upgrade" in str(error):
            if parse_qs(urlsplit(url).query).get("sslmode", ["prefer"])[0] in ("allow", "prefer"):
                return f"what answers at {where} is no PostgreSQL: correct host and port"
            return "it demands TLS (sslmode), which the server does not have: turn `ssl` on there, or correct sslmode"
        case asyncpg.PostgresError() if not str(getattr(error, "sqlstate", None) or "08").startswith(_PASSES):
            return f"{where} refuses the connection ({error}): correct the URL's parameters"
        case asyncpg.ClientConfigurationError() | ValueError() | OverflowError():
            if not isinstance(error, OSError):
                return f"cannot be used ({_parameter(error)}): correct the URL"
        case _:
            pass
    return ""


def _parameter(error: BaseException) -> str:
    # What a URL that cannot be taken apart looks like may be a password.
    return str(error) if isinstance(error, asyncpg.ClientConfigurationError) else "it is no URL of PostgreSQL"


def why_away(error: BaseException, url: str) -> str:
    """Why it does not answer now, with what to do."""
    where = place(url, _PORT)
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return (
            f"PostgreSQL at {where} has no connection left ({error}): raise max_connections, or the limit of the role"
        )
    if isinstance(error, asyncpg.PostgresError):
        return f"PostgreSQL at {where} takes no connections now ({error}): wait, or see to it there"
    if any(isinstance(one, socket.gaierror | OSError | TimeoutError) for one in chain(error)):
        return away(error, "PostgreSQL", where)
    return f"no PostgreSQL answers at {where} as one does: correct host and port"


async def _look(connection: Any, wanted: Wanted, where: str) -> list[str]:
    before = datetime.now(UTC)
    about = await connection.fetchrow(_ABOUT)
    after = datetime.now(UTC)
    if about["version"] < POSTGRES_LEAST * 10_000:
        raise ServerRefuses(f"{where} is PostgreSQL {about['called']}: use {POSTGRES_LEAST} or later")
    if about["encoding"] != "UTF8":
        raise ServerRefuses(
            f"the database's encoding is {about['encoding']}: create it anew with ENCODING 'UTF8' TEMPLATE template0"
        )
    if about["standby"]:
        raise ServerRefuses(f"{where} is a standby and takes no writes: name the primary")
    if about["read_only"]:
        raise ServerRefuses("the database takes no writes: switch default_transaction_read_only off there")
    if about["schema"] is None:
        raise ServerRefuses("search_path names no schema that is there: create one, or ALTER ROLE … SET search_path")
    _refuse_few_connections(about, wanted)
    await _refuse_tables(connection, about, wanted)
    skew = max((before - about["clock"]).total_seconds(), (about["clock"] - after).total_seconds())
    if skew > _WORST_SKEW:
        return [f"the clocks of {where} and of this machine differ by {skew:.0f} s: synchronise both"]
    return []


def _refuse_few_connections(about: Any, wanted: Wanted) -> None:
    limits = {
        "max_connections": about["connections"],
        "the role's CONNECTION LIMIT": about["role_limit"],
        "the database's CONNECTION LIMIT": about["database_limit"],
    }
    for name, limit in limits.items():
        if limit is not None and limit < wanted.connections and not (about["super"] and "LIMIT" in name):
            raise ServerRefuses(
                f"{name} leaves {limit} connections, and this process takes up to {wanted.connections}: raise it"
            )


async def _refuse_tables(connection: Any, about: Any, wanted: Wanted) -> None:
    tables = {row["name"]: row["writable"] for row in await connection.fetch(_TABLES)}
    applied: set[str] = set()
    if "slipway_migration" in tables:
        if closed := next((name for name, writable in tables.items() if not writable), None):
            raise ServerRefuses(
                f"the role {about['role']} may not write the table {closed}: use the role that owns it, or GRANT "
                "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA … TO it"
            )
        applied = {row["name"] for row in await connection.fetch("SELECT name FROM slipway_migration")}
        # What all services have says nothing about whose it is.
        own = {name for name in applied if not name.startswith("chassis/")}
        if own and own.isdisjoint(wanted.migrations):
            raise ServerRefuses(f"the database is another service's (it has {min(own)}): give each one of its own")
    elif tables:
        raise ServerRefuses(
            f"the database holds tables that are not Slipway's ({next(iter(tables))}): name an empty one of its own"
        )
    if not wanted.applies or applied.issuperset(wanted.migrations):
        return
    if not about["may_create"]:
        raise ServerRefuses(
            f"the role {about['role']} may not create tables: make it the owner of the database, or GRANT CREATE ON "
            f"SCHEMA {about['schema']} TO it"
        )
    for name in wanted.extensions:
        await _refuse_without(name, connection, about)


async def _refuse_without(extension: str, connection: Any, about: Any) -> None:
    found = await connection.fetchrow(_EXTENSION, extension)
    if found is None:
        major = about["version"] // 10_000
        raise ServerRefuses(
            f"the server lacks the extension {extension}: install it there (Debian: postgresql-{major}-pg{extension})"
        )
    if not found["installed"] and not (about["super"] or (found["trusted"] and about["may_extend"])):
        raise ServerRefuses(
            f"the role {about['role']} may not create the extension {extension}: have a superuser run CREATE EXTENSION "
            f"{extension} in this database"
        )
