"""A database with canaries that its role may read, and a memory process that governs it.

The role is granted everything on purpose: nothing but the rewriting stands between a query and the canaries.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from slipway.memory.v1 import sources_pb2 as pb
from slipway.memory.v1 import sources_pb2_grpc
from slipway_chassis.bus import open_bus
from slipway_chassis.channel import connect, invoke
from slipway_testkit.waiting import eventually

_SCHEMA = """
CREATE SCHEMA sales;
CREATE TABLE customers (id int PRIMARY KEY, tenant_id text, name text, email text, phone text, salary numeric,
                        card text, ssn text, region text);
INSERT INTO customers VALUES
  (1, 'acme', 'Ada', 'ada@private.example', '555-0199', 1000.50, '4111222233334444', 'CANARY-COLUMN', 'eu'),
  (2, 'acme', 'Ben', 'ben@private.example', '555-0199', 2000, '4111222233334444', 'CANARY-COLUMN', 'us'),
  (3, 'globex', 'CANARY-ROW', 'CANARY-ROW', 'CANARY-ROW', 99999, 'CANARY-ROW', 'CANARY-COLUMN', 'CANARY-ROW');
CREATE TABLE sales.orders_v2 (id int PRIMARY KEY, customer_id int, total numeric, at timestamptz, note jsonb,
                              margin text);
INSERT INTO sales.orders_v2 VALUES
  (10, 1, 19.99, '2026-01-31T12:00:00Z', '{"gift": true}', 'CANARY-COLUMN'),
  (11, 2, 5, '2026-02-01T12:00:00+02:00', NULL, 'CANARY-COLUMN'),
  (12, 1, 100, '2026-03-01T00:00:00Z', '[1]', 'CANARY-COLUMN');
CREATE TABLE secrets (id int, value text);
INSERT INTO secrets VALUES (1, 'CANARY-TABLE');
CREATE TABLE sales.customers AS SELECT * FROM customers;
CREATE FUNCTION leak() RETURNS text SECURITY DEFINER LANGUAGE sql AS $$SELECT 'CANARY-FUNCTION'$$;
CREATE FUNCTION lower(int) RETURNS text LANGUAGE sql AS $$SELECT 'CANARY-FUNCTION'$$;
CREATE FUNCTION plus(text, text) RETURNS text LANGUAGE sql AS $$SELECT 'CANARY-OPERATOR'$$;
CREATE OPERATOR + (FUNCTION = plus, LEFTARG = text, RIGHTARG = text);
CREATE FUNCTION peek(customers) RETURNS text LANGUAGE sql AS $$SELECT $1.ssn$$;
CREATE TYPE mood AS ENUM ('CANARY-TYPE');
CREATE VIEW slipway_0 AS SELECT * FROM secrets;
"""


@dataclass
class SourceDatabase:
    """Where the database is, as its superuser and as the role of data sources."""

    admin_url: str
    reader_url: str
    place: str


@pytest.fixture(scope="session")
def source_database(new_database: Callable[[], str]) -> SourceDatabase:
    url = new_database()
    folder = parse_qs(urlsplit(url).query)["host"][0]
    name = urlsplit(url).path.removeprefix("/")
    role = f"reader_{name}"

    async def fill() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(_SCHEMA)
            await connection.execute(f"CREATE ROLE {role} LOGIN")
            await connection.execute(f"GRANT USAGE ON SCHEMA public, sales TO {role}")
            for schema in ("public", "sales"):
                await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
        finally:
            await connection.close()

    asyncio.run(fill())
    return SourceDatabase(url, f"postgresql://{role}@/{name}?host={folder}", folder)


def declaration(source: str = "crm", **changes: Any) -> pb.PutSourceRequest:
    """What the tests declare of the database."""
    customers = pb.SourceTable(
        name="customers",
        row_filter="tenant_id = :tenant",
        columns=[
            pb.SourceColumn(name="id"),
            pb.SourceColumn(name="name"),
            pb.SourceColumn(name="region"),
            pb.SourceColumn(name="email", data_class="personal", mask="email_domain"),
            pb.SourceColumn(name="card", data_class="financial", mask="last4"),
            pb.SourceColumn(name="phone", data_class="personal", mask="redact"),
            pb.SourceColumn(name="salary", data_class="salary", readers=["role:payroll"]),
        ],
    )
    orders = pb.SourceTable(
        name="orders",
        schema="sales",
        relation="orders_v2",
        columns=[pb.SourceColumn(name=name) for name in ("id", "customer_id", "total", "at", "note")],
    )
    fields: dict[str, Any] = {"source": source, "url": "secret:crm", "tables": [customers, orders], **changes}
    return pb.PutSourceRequest(**fields)


@pytest.fixture(scope="session")
def source_secrets(source_database: SourceDatabase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The memory service's secrets."""
    path = tmp_path_factory.mktemp("secrets") / "secrets.yaml"
    path.touch(mode=0o600)
    path.write_text(
        f"crm: {source_database.reader_url}\n"
        f"root: {source_database.admin_url}\n"
        "elsewhere: postgresql://reader@db.example.com/crm\n"
        "options: postgresql://reader@/crm?host=/tmp&options=-cstatement_timeout=0\n"
        "broken: not a url\n"
        f"theirs: {{value: '{source_database.reader_url}', tenants: [globex]}}\n"
    )
    os.chmod(path, 0o600)
    return path


@pytest.fixture(scope="session")
def governed_memory(
    start_memory: Callable[..., Any],
    new_database: Callable[[], str],
    source_database: SourceDatabase,
    source_secrets: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A memory process that may reach the database with canaries, with small limits."""
    urls = tmp_path_factory.mktemp("urls")
    (urls / "acme").mkdir()
    (urls / "acme" / "crm").write_text(source_database.reader_url + "\n")
    return start_memory(
        new_database(),
        secrets_file=source_secrets,
        source_hosts=source_database.place,
        source_urls_dir=urls,
        source_seconds=3,
        source_rows=500,
        source_bytes=4096,
        source_cost=1_000_000,
        source_queries=2,
    )


@dataclass
class SourcesClient:
    """Calls SourcesService as somebody of the tenant acme."""

    stub: Any
    signing: Any
    token: str
    declaration: ClassVar = staticmethod(declaration)

    def as_(self, subject: str, *roles: str, tenant: str = "acme", **claims: Any) -> SourcesClient:
        """The same service, called by another."""
        return SourcesClient(self.stub, self.signing, self.signing.token(subject, tenant, list(roles), **claims))

    async def put(self, request: pb.PutSourceRequest) -> pb.PutSourceResponse:
        """Declares a data source."""
        return await invoke(self.stub.PutSource, request, token=self.token, timeout=20)

    async def get(self, source: str = "crm") -> pb.Source:
        """Its declaration."""
        return (
            await invoke(self.stub.GetSource, pb.GetSourceRequest(source=source), token=self.token, timeout=20)
        ).source

    async def query(self, sql: str, parameters: str = "", source: str = "crm", **fields: Any) -> pb.QuerySourceResponse:
        """The result of a query."""
        request = pb.QuerySourceRequest(source=source, sql=sql, parameters_json=parameters, **fields)
        return await invoke(self.stub.QuerySource, request, token=self.token, timeout=20)


@pytest.fixture
async def dev(governed_memory: Any, signing: Any) -> AsyncIterator[SourcesClient]:
    """alice, a developer of acme, where the data source is declared."""
    channel = connect(governed_memory.target)
    client = SourcesClient(sources_pb2_grpc.SourcesServiceStub(channel), signing, "").as_("alice", "developer")
    await client.put(declaration())
    yield client
    await channel.close()


@pytest.fixture
def audit_of() -> Any:
    """Opens a memory process's audit events: a function that waits for one of a type that meets a condition."""

    @asynccontextmanager
    async def opened(memory: Any) -> AsyncIterator[Any]:
        bus = await open_bus(memory.bus_url)
        seen: list[dict[str, Any]] = []

        async def take(message: Any, delivery: int) -> None:
            seen.append({"id": message.id, **json.loads(json.loads(message.body)["event"])})

        consumer = asyncio.create_task(bus.consume("audit.events", "audit", take))

        async def wait_for(kind: str, meets: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            async def found() -> dict[str, Any] | None:
                return next((event for event in seen if event["type"] == kind and meets(event)), None)

            return await eventually(found, 20)

        yield wait_for
        consumer.cancel()
        with suppress(asyncio.CancelledError):
            await consumer
        await bus.close()

    return opened
