"""Performs statements in databases of data sources: read-only, bounded in time, rows and bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg

from slipway_memory.sources.address import DatabaseAddress
from slipway_memory.sources.errors import (
    ParametersInvalid,
    QueryRefused,
    QueryTimeout,
    QueryTooCostly,
    RowTooLarge,
    SourceBusy,
    SourceRoleUnsafe,
    SourceUnavailable,
    SqlInvalid,
)
from slipway_memory.sources.sql.rewriting import Statement
from slipway_memory.sources.values import Json, JsonText, from_json, to_json

_CONNECT_SECONDS = 5.0
_IDLE_SECONDS = 60.0
_PREFETCH = 100
_ROLE = """
SELECT rolsuper OR rolbypassrls OR pg_catalog.pg_has_role(oid, 'pg_read_server_files', 'MEMBER')
       OR pg_catalog.pg_has_role(oid, 'pg_execute_server_program', 'MEMBER')
FROM pg_catalog.pg_roles WHERE rolname = current_user
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most that a query may take: seconds, rows, bytes of the result as JSON, and the planner's cost (0: any)."""

    seconds: float
    rows: int
    bytes: int
    cost: float


@dataclass(frozen=True, slots=True)
class Result:
    """Columns with their types, rows as JSON text, and what cut them: `rows`, `bytes` or nothing."""

    columns: tuple[tuple[str, str], ...]
    rows_json: str
    row_count: int
    truncated_by: str


class Databases:
    """Connections to the databases of all data sources; those that are not used are closed after a minute."""

    def __init__(self, *, connections: int) -> None:
        """`connections`: most to one database."""
        self._connections = connections
        self._pools: dict[DatabaseAddress, asyncpg.Pool] = {}

    async def perform(
        self,
        address: DatabaseAddress,
        statement: Statement,
        parameters: Mapping[str, Json],
        attributes: Sequence[object],
        bounds: Bounds,
    ) -> Result:
        """Perform a statement; `attributes` are the values that follow its parameters.

        Raises:
            SqlInvalid, ParametersInvalid, QueryRefused, QueryTimeout, QueryTooCostly, RowTooLarge, SourceBusy,
            SourceRoleUnsafe, SourceUnavailable.
        """
        async with AsyncExitStack() as stack:
            try:
                connection = await self._connection(address, stack)
                async with asyncio.timeout(bounds.seconds + 2):
                    async with connection.transaction(readonly=True):
                        return await _perform(connection, statement, parameters, attributes, bounds)
            except asyncpg.PostgresError as error:
                raise _told(error, bounds) from None
            except TimeoutError:
                raise QueryTimeout(f"the query took more than {bounds.seconds:g} s") from None
            except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                raise SourceUnavailable("the data source's database does not answer", retry_after=5) from None

    async def _connection(self, address: DatabaseAddress, stack: AsyncExitStack) -> Any:
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = asyncpg.create_pool(
                **_connect_arguments(address),
                min_size=0,
                max_size=self._connections,
                max_inactive_connection_lifetime=_IDLE_SECONDS,
                statement_cache_size=0,
                timeout=_CONNECT_SECONDS,
                init=_prepare,
            )
        await pool
        try:
            return await stack.enter_async_context(pool.acquire(timeout=_CONNECT_SECONDS * 2))
        except TimeoutError:
            if pool.get_size() >= self._connections and pool.get_idle_size() == 0:
                raise SourceBusy("all connections to the data source's database are used", retry_after=1) from None
            raise SourceUnavailable("the data source's database does not answer", retry_after=5) from None

    async def close(self) -> None:
        """Close all connections, in use or not."""
        for pool in self._pools.values():
            pool.terminate()
        self._pools.clear()


def _connect_arguments(address: DatabaseAddress) -> dict[str, Any]:
    """All that the driver would else take from the environment and the home folder is said."""
    context: ssl.SSLContext | bool = False
    if address.tls != "disable":
        context = ssl.create_default_context()
        if address.tls == "require":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return {
        "host": address.host,
        "port": address.port,
        "user": address.user,
        "password": address.password.get_secret_value(),
        "passfile": os.devnull,
        "database": address.database,
        "ssl": context,
        "direct_tls": False,
        "server_settings": {"application_name": "slipway-memory"},
    }


async def _prepare(connection: Any) -> None:
    """Looks at the role once a connection. Raises SourceRoleUnsafe."""
    if await connection.fetchval(_ROLE):
        raise SourceRoleUnsafe(
            "the URL's role may do more than read what it is granted: name one without SUPERUSER, BYPASSRLS and"
            " the roles that reach the server's files and programs",
            field="url",
        )
    encode: Callable[[JsonText], str] = lambda value: value.text  # noqa: E731
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=encode, decoder=JsonText)


async def _perform(
    connection: Any,
    statement: Statement,
    parameters: Mapping[str, Json],
    attributes: Sequence[object],
    bounds: Bounds,
) -> Result:
    # Nothing is looked up but in pg_catalog: what a query names is written with its schema.
    await connection.execute(
        "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL TimeZone = 'UTC'; SET LOCAL row_security = on;"
        f" SET LOCAL statement_timeout = {round(bounds.seconds * 1000)}; SET LOCAL lock_timeout = 1000;"
        f" SET LOCAL idle_in_transaction_session_timeout = {round(bounds.seconds * 1000) + 5000}"
    )
    sql = _measured(statement.sql, bounds.bytes)
    prepared = await connection.prepare(sql)
    values = [*_values(statement.names, parameters, prepared.get_parameters()), *attributes]
    if bounds.cost:
        plan = json.loads((await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *values)).text)
        cost = float(plan[0]["Plan"]["Total Cost"])
        if cost > bounds.cost:
            raise QueryTooCostly(
                f"the database expects a cost of {cost:.0f}, and {bounds.cost:.0f} is allowed: ask for less",
                metadata={"cost": f"{cost:.0f}", "allowed": f"{bounds.cost:.0f}"},
            )
    columns = tuple((column.name, column.type.name) for column in prepared.get_attributes())
    rows: list[str] = []
    size, cut = 2, ""
    async for record in prepared.cursor(*values, prefetch=_PREFETCH):
        if len(rows) == bounds.rows:
            cut = "rows"
            break
        row = json.dumps([to_json(value) for value in record], ensure_ascii=False, separators=(",", ":"))
        size += len(row.encode()) + 1
        if size > bounds.bytes:
            cut = "bytes"
            break
        rows.append(row)
    return Result(columns, f"[{','.join(rows)}]", len(rows), cut)


def _measured(sql: str, most: int) -> str:
    """The statement with a bound on a row's size, kept by the database: the driver has none.

    The row's name can't be that of one of its columns: it follows from the statement's text.
    """
    row = f"row_{hashlib.sha256(sql.encode()).hexdigest()[:24]}"
    return (
        f"SELECT {row}.* FROM ({sql}) AS {row} WHERE CASE WHEN octet_length({row}::text) <= {most} THEN true"  # noqa: S608
        f" ELSE CAST('slipway_row_too_large' || left({row}::text, 0) AS boolean) END"
    )


def _values(names: Sequence[str], parameters: Mapping[str, Json], types: Sequence[asyncpg.Type]) -> list[object]:
    values: list[object] = []
    for name, wanted in zip(names, types, strict=False):
        try:
            values.append(from_json(parameters[name], wanted.name))
        except ValueError as error:
            raise ParametersInvalid(f":{name}: {error}", field=f"parameters.{name}") from None
    return values


def _told(error: asyncpg.PostgresError, bounds: Bounds) -> Exception:
    """A database's error in terms of the query."""
    state = str(getattr(error, "sqlstate", ""))
    text = str(error.args[0])[:500] if error.args else "the database refused the query"
    if state == "22P02" and "slipway_row_too_large" in text:
        return RowTooLarge(f"a row of the result has more than {bounds.bytes} bytes: ask for fewer or shorter columns")
    if state == "57014":
        return QueryTimeout(f"the query took more than {bounds.seconds:g} s")
    if state in ("42501", "42P01", "3F000", "28000", "28P01", "3D000"):
        return QueryRefused(
            f"the data source's role, tables and columns are not as it declares: {text}", metadata={"sqlstate": state}
        )
    if state.startswith("42"):
        return SqlInvalid(text, field="sql", metadata={"sqlstate": state})
    if state[:2] in ("08", "53", "57"):
        return SourceUnavailable("the data source's database does not take the query now", retry_after=5)
    return QueryRefused(text, metadata={"sqlstate": state})
