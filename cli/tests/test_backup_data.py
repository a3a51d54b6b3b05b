"""What is in a backup: databases as they were at one moment, on Debian's PostgreSQL too, and conversations."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis
from slipway_cli.backup import databases, programs, sessions
from slipway_cli.backup.refusal import BackupRefusedError
from slipway_testkit.servers.postgres import PostgresServer

SERVICES = ("orchestrator", "tools", "audit")
# What stands for a journal, and for what an executor keeps of effects.
_JOURNAL = "CREATE TABLE journal (id bigint, kind text, PRIMARY KEY (id, kind))"
_EFFECTS = "CREATE TABLE effects (id bigint PRIMARY KEY)"
_EVENT = """
INSERT INTO outbox (message_id, topic, ordering_key, tenant, subject, headers, body, receipt)
VALUES ($1, 'audit.events', '', 'acme', '', '{}', '', true)
"""
_LEAF = """
WITH log AS (UPDATE audit_log SET size = size + 1 WHERE tenant = 'acme' RETURNING size)
INSERT INTO audit_leaf (tenant, index, event_id, type, run_id, kind, subject, commitment)
SELECT 'acme', size - 1, $1, 'run.event', '', '', '', '' FROM log
"""


class Fleet:
    """Services that commit events and effects, as the real ones do, as fast as they can."""

    def __init__(self, pools: dict[str, Any]) -> None:
        self._orchestrator, self._tools, self._audit = (pools[service] for service in SERVICES)
        self._next = 0

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            self._next += 1
            await self._step(self._next)

    async def _step(self, number: int) -> None:
        async with self._orchestrator.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO journal VALUES ($1, 'intent')", number)
            await connection.execute(_EVENT, str(number))
        await self._tools.execute("INSERT INTO effects VALUES ($1)", number)
        await self._orchestrator.execute("INSERT INTO journal VALUES ($1, 'result')", number)
        await self._audit.execute(_LEAF, str(number))
        await self._orchestrator.execute("DELETE FROM outbox WHERE message_id = $1", str(number))


@pytest.fixture(params=["postgres_server", pytest.param("debian_postgres_server", marks=pytest.mark.servers)])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    """The embedded server, and Debian's."""
    return request.getfixturevalue(request.param)


@pytest.fixture
async def urls(server: PostgresServer) -> AsyncIterator[dict[str, str]]:
    """Databases with the services' own tables, and those of the test."""
    urls = {service: server.create_database() for service in SERVICES}
    for service, url in urls.items():
        environment = {**os.environ, f"SLIPWAY_{service.upper()}_DATABASE_URL": url}
        command = [sys.executable, "-m", f"slipway_{service}.migrate"]
        await asyncio.to_thread(subprocess.run, command, env=environment, check=True, capture_output=True)
    for service, statement in (("orchestrator", _JOURNAL), ("tools", _EFFECTS)):
        connection = await asyncpg.connect(urls[service])
        await connection.execute(statement)
        await connection.close()
    connection = await asyncpg.connect(urls["audit"])
    await connection.execute("INSERT INTO audit_log (tenant) VALUES ('acme')")
    await connection.close()
    yield urls
    for url in urls.values():
        server.drop_database(url)


async def read(connection: Any, statement: str) -> set[int]:
    return {int(row[0]) for row in await connection.fetch(statement)}


async def check(connections: dict[str, Any], *, least: int) -> int:
    """What must hold between the databases of one moment; answers with the number of events."""
    intents = await read(connections["orchestrator"], "SELECT id FROM journal WHERE kind = 'intent'")
    results = await read(connections["orchestrator"], "SELECT id FROM journal WHERE kind = 'result'")
    waiting = await read(connections["orchestrator"], "SELECT message_id FROM outbox")
    effects = await read(connections["tools"], "SELECT id FROM effects")
    logged = await read(connections["audit"], "SELECT event_id FROM audit_leaf")
    assert logged <= intents, "the log has what its service does not know: it would be written a second time"
    assert intents <= logged | waiting, "an event is neither in the log nor on its way to it"
    assert results <= effects, "an effect that has a result is not on record: a copy would do it a second time"
    assert len(intents) > least
    return len(intents)


async def test_databases_are_of_one_moment_while_services_commit(
    urls: dict[str, str], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    pools = {service: await asyncpg.create_pool(url, min_size=1, max_size=6) for service, url in urls.items()}
    fleet = Fleet(pools)
    working = [asyncio.create_task(fleet.work()) for _ in range(4)]
    seen = 0
    try:
        for _ in range(4):
            async with databases.hold_snapshots(urls) as snapshots:
                readers: dict[str, Any] = {}
                for service, name in snapshots.names.items():
                    readers[service] = await asyncpg.connect(urls[service])
                    await readers[service].execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                    await readers[service].execute(f"SET TRANSACTION SNAPSHOT '{name}'")
                seen = await check(readers, least=seen)
                for reader in readers.values():
                    await reader.close()
        async with databases.hold_snapshots(urls) as snapshots:
            await databases.dump(urls, snapshots, tmp_path)
            seen += 1
    finally:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        for pool in pools.values():
            await pool.close()

    # Into the embedded server, which is of a later version than Debian's.
    copies = {service: postgres_server.create_database() for service in SERVICES}
    await databases.load(copies, tmp_path)
    restored = {service: await asyncpg.connect(url) for service, url in copies.items()}
    await check(restored, least=seen - 2)
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await restored["audit"].execute("DELETE FROM audit_leaf")
    for connection in restored.values():
        await connection.close()
    # A database that has something already is left as it is.
    with pytest.raises(BackupRefusedError, match="pg_restore of test_"):
        await databases.load({"tools": copies["tools"]}, tmp_path)
    for url in copies.values():
        postgres_server.drop_database(url)


async def test_programs_of_an_older_postgresql_than_the_server_are_not_used() -> None:
    with pytest.raises(BackupRefusedError, match=r"no pg_dump of PostgreSQL 99 here: install .*postgresql-client-99"):
        await programs.find("pg_dump", 99)


async def test_conversations_come_back_whole_and_with_their_time_to_live(valkey_url: str, tmp_path: Path) -> None:
    client = Redis.from_url(valkey_url)
    prefix = "slipway:memory:backup-test"
    try:
        assert await sessions.save(client, tmp_path / "none.jsonl") >= 0
        await client.hset(f"{prefix}:{{s1}}", mapping={"owner": "alice", b"\xff": b"\x00"})
        await client.rpush(f"{prefix}:{{s1}}:messages", "one", "two", b"\xfe")
        await client.set(f"{prefix}:request:r1", "s1 fingerprint", ex=900)
        await client.pexpire(f"{prefix}:{{s1}}", 600_000)
        await client.set("slipway:other", "no conversation")
        assert await sessions.save(client, tmp_path / "sessions.jsonl") >= 1
        before = await contents(client, prefix)
        await client.delete(*before)
        await sessions.load(client, tmp_path / "sessions.jsonl")
        assert await contents(client, prefix) == before
        assert 0 < await client.pttl(f"{prefix}:{{s1}}") <= 600_000
        assert await client.pttl(f"{prefix}:{{s1}}:messages") == -1
        assert not await sessions.is_empty(client)
        assert b"slipway:other" not in (tmp_path / "sessions.jsonl").read_bytes()
    finally:
        await client.delete(*[key async for key in client.scan_iter(match=f"{prefix}*")], "slipway:other")
        await client.aclose()


async def contents(client: Any, prefix: str) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"string": client.get,
    }
    async for key in client.scan_iter(match=f"{prefix}*"):
        found[key] = await readers[await client.type(key)](key)
    return found
