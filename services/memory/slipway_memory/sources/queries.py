"""Queries of data sources: read, checked against policy column by column, performed as written anew, recorded."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument, SlipwayError
from slipway_chassis.policy import PolicyDecision, PolicyEngine, Resource
from slipway_chassis.telemetry import span

from slipway_memory.sources import metrics
from slipway_memory.sources.address import Addresses
from slipway_memory.sources.databases import Bounds, Databases, Result
from slipway_memory.sources.declaration import Source, SourceColumn
from slipway_memory.sources.errors import ColumnDenied, ParametersInvalid, SourceBusy, SourceRegionNotAllowed
from slipway_memory.sources.sources import Sources
from slipway_memory.sources.sql.analysis import Analysis, analyse
from slipway_memory.sources.sql.rewriting import Statement, rewrite
from slipway_memory.sources.sql.text import read_names
from slipway_memory.sources.values import Json
from slipway_memory.transactions import Database

DEFAULT_ROWS = 100


@dataclass(frozen=True, slots=True)
class SourceQuery:
    """A query as it was asked for. `seconds` None: the service's limit; `regions` None: the caller demands none."""

    source: str
    sql: str
    parameters: Mapping[str, Json]
    limit: int = 0
    seconds: float | None = None
    regions: tuple[str, ...] | None = None
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class QueryAnswer:
    """A result, what of it is masked, which classes of data it was read from, and its audit record."""

    result: Result
    masked: tuple[str, ...]
    data_classes: tuple[str, ...]
    event_id: str
    commitment: str


_CHECKED = QueryAnswer(Result((), "[]", 0, ""), (), (), "", "")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What policy lets the caller see of the columns: those to mask by table, and classes of the others."""

    masked: Mapping[str, set[str]]
    data_classes: frozenset[str]

    @property
    def masked_names(self) -> tuple[str, ...]:
        return tuple(sorted(f"{table}.{name}" for table, names in self.masked.items() for name in names))


class Queries:
    """Performs queries for callers."""

    def __init__(
        self,
        database: Database,
        sources: Sources,
        policy: PolicyEngine,
        addresses: Addresses,
        databases: Databases,
        *,
        bounds: Bounds,
        tenant_queries: int,
    ) -> None:
        """`bounds` are the most that a query may ask for; `tenant_queries` run at a time for one tenant."""
        self._database = database
        self._sources = sources
        self._policy = policy
        self._addresses = addresses
        self._databases = databases
        self._bounds = bounds
        self._tenant_queries = tenant_queries
        self._running: Counter[str] = Counter()

    async def query(self, caller: Caller, query: SourceQuery) -> QueryAnswer:
        """Perform one query as the caller, or check it (`validate_only`).

        Raises:
            SourceNotFound, PolicyDenied, ColumnDenied, SourceRegionNotAllowed, SqlInvalid, SqlNotAllowed, UnknownTable,
            UnknownColumn, ParametersInvalid, InvalidArgument, and what `Databases.perform` and `Addresses` raise.
        """
        started = time.perf_counter()
        outcome = "error"
        try:
            facts = {"slipway.tenant": caller.tenant, "slipway.source": query.source}
            with span("memory.query_source", attributes=facts):
                answer = await self._query(caller, query)
            outcome = "ok"
            return answer
        except SlipwayError as error:
            outcome = error.reason
            raise
        finally:
            metrics.SOURCE_QUERIES.labels(outcome).inc()
            metrics.SOURCE_QUERY_SECONDS.observe(time.perf_counter() - started)

    async def _query(self, caller: Caller, query: SourceQuery) -> QueryAnswer:
        # Who may not see the declaration does not learn from errors which tables there are.
        source, _ = await self._sources.find(caller, query.source, "ReadSource")
        _check_regions(source, query.regions)
        bounds = self._asked(query)
        named = read_names(query.sql)
        _check_parameters(named.names, query.parameters)
        analysis = analyse(named, source.declaration.tables)
        if query.validate_only:
            rewrite(analysis, {})
            return _CHECKED
        facts = _facts(source, query, analysis)
        decision: PolicyDecision | None = None
        reading: _Reading | None = None
        try:
            context = {"tables": facts.tables, "columns": facts.columns}
            source, decision = await self._sources.find(caller, query.source, "QuerySource", context)
            reading = self._reading(caller, source, analysis)
            statement = rewrite(analysis, reading.masked)
            address = self._addresses.resolve(source.declaration.url, caller.tenant)
            async with self._turn(caller.tenant):
                result = await self._databases.perform(
                    address, statement, query.parameters, _attributes(caller, statement), bounds
                )
        except SlipwayError as error:
            await self._record(caller, facts, decision, reading, None, error.reason)
            raise
        event_id, commitment = await self._record(caller, facts, decision, reading, result, "ok")
        classes = tuple(sorted(reading.data_classes))
        return QueryAnswer(result, reading.masked_names, classes, event_id, commitment)

    def _asked(self, query: SourceQuery) -> Bounds:
        if not 0 <= query.limit <= self._bounds.rows:
            raise InvalidArgument(f"the limit is 1 to {self._bounds.rows}, or 0 for {DEFAULT_ROWS}", field="limit")
        seconds = self._bounds.seconds if query.seconds is None else query.seconds
        if not 0.1 <= seconds <= self._bounds.seconds:
            raise InvalidArgument(f"the timeout is 0.1 to {self._bounds.seconds:g} s", field="timeout")
        rows = query.limit or min(DEFAULT_ROWS, self._bounds.rows)
        return replace(self._bounds, rows=rows, seconds=seconds)

    def _reading(self, caller: Caller, source: Source, analysis: Analysis) -> _Reading:
        masked: dict[str, set[str]] = {}
        denied: list[str] = []
        classes: set[str] = set()
        for table in source.declaration.tables:
            used = analysis.columns.get(table.name, set())
            for column in (column for column in table.columns if column.name in used):
                resource = _column_resource(caller, source, table.name, column)
                if self._policy.decide(caller, "ReadColumn", resource).allowed:
                    classes.add(column.data_class)
                elif column.mask and self._policy.decide(caller, "ReadMaskedColumn", resource).allowed:
                    masked.setdefault(table.name, set()).add(column.name)
                else:
                    denied.append(f"{table.name}.{column.name}")
        if denied:
            raise ColumnDenied(
                f"policy does not let you read {', '.join(denied)}: name the columns that you need",
                field="sql",
                metadata={"columns": ",".join(denied), "policy_digest": self._policy.digest},
            )
        return _Reading(masked, frozenset(classes - {""}))

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncGenerator[None]:
        if self._running[tenant] >= self._tenant_queries:
            raise SourceBusy(
                f"{self._tenant_queries} queries of the tenant run already", retry_after=1, metadata={"tenant": tenant}
            )
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    async def _record(
        self,
        caller: Caller,
        facts: _Facts,
        decision: PolicyDecision | None,
        reading: _Reading | None,
        result: Result | None,
        outcome: str,
    ) -> tuple[str, str]:
        """Keep what was asked and how much came of it, never a value."""
        data = {
            "sql_digest": facts.digest,
            "source_version": facts.version,
            "tables": facts.tables,
            "columns": facts.columns,
            "masked_columns": list(reading.masked_names) if reading else [],
            "parameters": facts.parameters,
            "outcome": outcome,
            "row_count": result.row_count if result else 0,
            "truncated_by": result.truncated_by if result else "",
        }
        async with self._database.transaction() as transaction:
            sealed = await transaction.record(
                "source.query", caller=caller, resource=f"source/{facts.source}", data=data, policy=decision
            )
        return sealed.event_id, sealed.commitment


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a query is about, as it is recorded."""

    source: str
    version: int
    digest: str
    tables: list[str]
    columns: list[str]
    parameters: list[str]


def _facts(source: Source, query: SourceQuery, analysis: Analysis) -> _Facts:
    columns = sorted(f"{table}.{name}" for table, names in analysis.columns.items() for name in names)
    digest = f"sha256:{hashlib.sha256(query.sql.encode()).hexdigest()}"
    return _Facts(source.name, source.version, digest, sorted(analysis.columns), columns, sorted(analysis.named.names))


def _check_regions(source: Source, demanded: Sequence[str] | None) -> None:
    if demanded is None:
        return
    held = source.declaration.regions
    if not demanded or not held or not set(held) <= set(demanded):
        raise SourceRegionNotAllowed(
            f"data source {source.name} ({', '.join(held) or 'no region declared'}) is not in the regions demanded"
            f" ({', '.join(demanded) or 'none'})",
            field="regions",
        )


def _check_parameters(names: Sequence[str], given: Mapping[str, Json]) -> None:
    for name in names:
        if name not in given:
            raise ParametersInvalid(f"the query needs a value for :{name}", field=f"parameters.{name}")
    for name in given:
        if name not in names:
            raise ParametersInvalid(f"the query has no :{name[:64]}", field=f"parameters.{name[:64]}")


def _attributes(caller: Caller, statement: Statement) -> list[object]:
    values: Mapping[str, object] = {
        "tenant": caller.tenant,
        "subject": caller.subject,
        "roles": sorted(caller.roles),
        "groups": sorted(caller.groups),
    }
    return [values[name] for name in statement.attributes]


def _column_resource(caller: Caller, source: Source, table: str, column: SourceColumn) -> Resource:
    attributes = {
        "source": source.name,
        "table": table,
        "name": column.name,
        "data_class": column.data_class,
        "masked": bool(column.mask),
        "readers": list(column.readers),
    }
    return Resource("SourceColumn", f"{source.name}/{table}.{column.name}", caller.tenant, attributes)
