"""The services' databases on the embedded PostgreSQL 18 and on Debian's: migrations, and what all services share.

With SLIPWAY_TEST_POSTGRES=debian the whole suites of the services (but memory, which needs pgvector) run on Debian's.
"""

import base64
import importlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
from slipway_chassis.bus import open_bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.inbox import first_time
from slipway_chassis.outbox import Outbox
from slipway_chassis.postgres import close_pool, open_pool, transaction
from slipway_chassis.schema import Schema
from slipway_testkit.consuming import Consumers, Inbox
from slipway_testkit.servers.postgres import PostgresServer

SERVICES = ("audit", "gateway", "memory", "orchestrator", "router", "tools")


@pytest.fixture(scope="session", params=["embedded", pytest.param("debian", marks=pytest.mark.servers)])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    """The server, once per kind."""
    return request.getfixturevalue("postgres_server" if request.param == "embedded" else "debian_postgres_server")


@pytest.fixture
async def pool(server: PostgresServer) -> AsyncIterator[asyncpg.Pool]:
    url = server.create_database()
    opened = await open_pool(url)
    yield opened
    await close_pool(opened)
    server.drop_database(url)


async def has_vectors(pool: asyncpg.Pool) -> bool:
    return bool(await pool.fetchval("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"))


@pytest.mark.parametrize("service", SERVICES)
async def test_migrations_are_applied_once(pool, service):
    schema: Schema = importlib.import_module(f"slipway_{service}.migrate").SCHEMA
    if service == "memory" and not await has_vectors(pool):
        with pytest.raises(asyncpg.PostgresError, match="vector"):
            await schema.apply(pool)
        assert await pool.fetchval("SELECT to_regclass('slipway_migration')") is None, "all or nothing"
        return
    await schema.apply(pool)
    applied = await pool.fetch("SELECT * FROM slipway_migration ORDER BY name")
    await schema.apply(pool)
    assert await pool.fetch("SELECT * FROM slipway_migration ORDER BY name") == applied
    await schema.prepare(pool, "check")


async def test_what_commits_with_a_change_reaches_its_consumer_once(pool, valkey_url, namespace, consumers, eventually):
    schema = Schema("audit", ("outbox", "inbox", "subject_keys"))
    await schema.apply(pool)
    keys = SubjectKeys(pool, base64.b64encode(bytes(32)).decode())
    bus = await open_bus(valkey_url, namespace=namespace)
    outbox, inbox = Outbox(pool, bus, keys), Inbox()

    async def change_its_mind() -> None:
        async with transaction(pool) as connection:
            await outbox.add(connection, "t", b"rolled back", message_id="m0", tenant="acme")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change_its_mind()
    for number in (1, 2):
        async with transaction(pool) as connection:
            await outbox.add(connection, "t", b"%d" % number, message_id=f"m{number}", tenant="acme", subject="alice")
    consumers.start(bus.consume("t", "group", inbox))
    consumers.start(outbox.relay())
    await eventually(lambda: {"m1", "m2"} <= set(inbox.ids))
    assert {message.id: message.body for message, _ in inbox.seen} == {"m1": b"1", "m2": b"2"}
    marks = []
    for _ in range(2):
        async with transaction(pool) as connection:
            marks.append(await first_time(connection, "group", "m1"))
    assert marks == [True, False]
    await consumers.close()
    await bus.close()


@pytest.fixture
async def consumers() -> AsyncIterator[Consumers]:
    started = Consumers()
    yield started
    await started.close()
