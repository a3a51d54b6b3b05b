"""Migrations, transactions, and what a database that is away means."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from slipway_chassis.errors import ErrorKind
from slipway_chassis.postgres import (
    StoreUnavailable,
    WriteConflict,
    after_commit,
    check_answers,
    close_pool,
    migrate,
    open_pool,
    transaction,
)
from slipway_testkit.servers.postgres import PostgresServer, embedded_postgres


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The migrations folder of a package `shop`."""
    folder = tmp_path / "shop" / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / "shop" / "__init__.py").touch()
    (folder / "0001_first.sql").write_text("CREATE TABLE item (id int); CREATE TABLE note (t text);")
    (folder / "0002_second.sql").write_text("ALTER TABLE item ADD price int;")
    (folder / "README.md").write_text("no SQL")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    sys.modules.pop("shop", None)


async def test_migrations_run_once_in_order_also_when_processes_start_together(
    database_url: str, package: Path
) -> None:
    async with await open_pool(database_url) as pool:
        await asyncio.gather(*(migrate(pool, "shop", chassis=["outbox", "inbox"]) for _ in range(4)))
        applied = [r["name"] for r in await pool.fetch("SELECT name FROM slipway_migration ORDER BY apply_time, name")]
        assert applied == [
            "0001_first.sql",
            "0002_second.sql",
            "chassis/inbox_0001.sql",
            "chassis/outbox_0001.sql",
            "chassis/outbox_0002.sql",
        ]
        await pool.execute("INSERT INTO item (id, price) VALUES (1, 2)")
        (package / "0003_third.sql").write_text("ALTER TABLE item ADD colour text;")
        await migrate(pool, "shop", chassis=["outbox", "inbox"])
        assert await pool.fetchval("SELECT colour FROM item") is None


async def test_a_migration_that_fails_leaves_nothing_behind(database_url: str, package: Path) -> None:
    (package / "0003_broken.sql").write_text("CREATE TABLE late (id int); SELECT nonsense;")
    async with await open_pool(database_url) as pool:
        with pytest.raises(asyncpg.UndefinedColumnError):
            await migrate(pool, "shop")
        assert await pool.fetchval("SELECT to_regclass('item')") is None


async def test_an_applied_migration_must_not_change(database_url: str, package: Path) -> None:
    async with await open_pool(database_url) as pool:
        await migrate(pool, "shop")
        (package / "0001_first.sql").write_text("CREATE TABLE other (id int);")
        with pytest.raises(RuntimeError, match=r"0001_first\.sql was changed"):
            await migrate(pool, "shop")


async def test_callbacks_run_after_the_commit_and_not_after_a_rollback(pool: asyncpg.Pool) -> None:
    seen: list[Any] = []
    async with transaction(pool) as conn:
        assert after_commit(conn, lambda: seen.append("committed"))
        assert seen == []
    assert seen == ["committed"]

    async def fails() -> None:
        async with transaction(pool) as conn:
            after_commit(conn, lambda: seen.append("rolled back"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    async with pool.acquire() as conn, conn.transaction():
        assert not after_commit(conn, lambda: seen.append("not ours"))
    assert seen == ["committed"]


async def test_the_loser_of_a_deadlock_is_told_to_try_again(pool: asyncpg.Pool) -> None:
    await pool.execute("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0), (2, 0)")
    meet = asyncio.Barrier(2)

    async def update(first: int, second: int) -> None:
        async with transaction(pool) as conn:
            await conn.execute("UPDATE t SET n = n + 1 WHERE id = $1", first)
            await meet.wait()
            await conn.execute("UPDATE t SET n = n + 1 WHERE id = $1", second)

    results = await asyncio.gather(update(1, 2), update(2, 1), return_exceptions=True)
    losers = [r for r in results if r is not None]
    assert len(losers) == 1
    assert isinstance(losers[0], WriteConflict)
    assert losers[0].kind is ErrorKind.ABORTED
    assert await pool.fetch("SELECT n FROM t") == [(1,), (1,)]


async def test_a_database_that_is_away_is_unavailable_and_the_pool_recovers(
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    with embedded_postgres() as server:
        pool = await open_pool(server.url())

        async def in_transaction() -> int:
            async with transaction(pool) as conn:
                server.stop(crash=True)
                return await conn.fetchval("SELECT 1")

        with pytest.raises(StoreUnavailable):
            await in_transaction()

        async def works() -> bool:
            try:
                async with transaction(pool) as conn:
                    return await conn.fetchval("SELECT true")
            except StoreUnavailable:
                return False

        assert not await works()
        # Not only in a transaction: also for a query that is the pool's own.
        with pytest.raises(StoreUnavailable):
            await pool.fetchval("SELECT 1")
        server.start()
        await eventually(works, timeout=20)
        await pool.close()


async def test_a_database_that_takes_no_writes_is_unavailable_until_it_does(pool: asyncpg.Pool) -> None:
    await pool.execute("CREATE TABLE t (id int)")
    await check_answers(pool)
    async with pool.acquire() as conn:
        # As every connection has it at a standby, and at a primary that an operator has locked.
        database = await conn.fetchval("SELECT quote_ident(current_database())")
        await conn.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    await pool.expire_connections()
    with pytest.raises(StoreUnavailable, match="takes no writes"):
        await check_answers(pool)
    with pytest.raises(StoreUnavailable) as refused:
        async with transaction(pool) as conn:
            await conn.execute("INSERT INTO t VALUES (1)")
    assert refused.value.retry_after
    async with pool.acquire() as conn:
        await conn.execute("SET default_transaction_read_only = off")
        await conn.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    await pool.expire_connections()
    await check_answers(pool)
    async with transaction(pool) as conn:
        await conn.execute("INSERT INTO t VALUES (2)")
    assert await pool.fetchval("SELECT id FROM t") == 2


async def test_a_statement_that_the_server_gives_no_time_is_unavailable(pool: asyncpg.Pool) -> None:
    await pool.execute("CREATE TABLE t (id int)")
    async with pool.acquire() as foreign, foreign.transaction():
        await foreign.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        for bound in ("statement_timeout", "lock_timeout"):
            with pytest.raises(StoreUnavailable):  # noqa: PT012 # it is the end of the block that raises
                async with transaction(pool) as conn:
                    await conn.execute(f"SET LOCAL {bound} = '20ms'")
                    await conn.execute("INSERT INTO t VALUES (1)")
        # Nor does the client wait for ever, whatever the server is told.
        with pytest.raises(StoreUnavailable):
            async with transaction(pool) as conn:
                await conn.execute("INSERT INTO t VALUES (1)", timeout=0.02)
    async with transaction(pool) as conn:
        await conn.execute("INSERT INTO t VALUES (2)")


@pytest.mark.parametrize(("forbid", "allow"), [("NOLOGIN", "LOGIN"), ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1")])
async def test_a_database_that_lets_nobody_in_any_more_is_unavailable_until_it_does(
    database_url: str, pool: asyncpg.Pool, forbid: str, allow: str
) -> None:
    role = f"role_{secrets.token_hex(4)}"
    await pool.execute(f"CREATE ROLE {role} LOGIN")
    async with await open_pool(database_url.replace("//postgres@", f"//{role}@")) as of_role:
        assert await of_role.fetchval("SELECT current_user") == role
        await pool.execute(f"ALTER ROLE {role} {forbid}")
        await pool.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", role)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                async with transaction(of_role) as conn:
                    await conn.fetchval("SELECT 1")
        await pool.execute(f"ALTER ROLE {role} {allow}")
        async with transaction(of_role) as conn:
            assert await conn.fetchval("SELECT 1") == 1
    await pool.execute(f"DROP ROLE {role}")


@pytest.fixture
def small_disk(postgres_server: PostgresServer) -> Iterator[Path]:
    """A folder of sixteen MiB that is PostgreSQL's."""
    owner, folder = postgres_server.folder.stat(), postgres_server.folder / f"small-{secrets.token_hex(4)}"
    folder.mkdir()
    options = f"size=16m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "small", folder]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_database_whose_disk_is_full_is_unavailable_until_there_is_room(
    pool: asyncpg.Pool, small_disk: Path
) -> None:
    space = f"small_{secrets.token_hex(4)}"
    await pool.execute(f"CREATE TABLESPACE {space} LOCATION '{small_disk}'")
    await pool.execute(f"CREATE TABLE big (content text) TABLESPACE {space}")
    await pool.execute("ALTER TABLE big ALTER content SET STORAGE PLAIN")

    async def fill() -> None:
        async with transaction(pool) as conn:
            await conn.execute("INSERT INTO big SELECT repeat('x', 7000) FROM generate_series(1, 4000)")

    with pytest.raises(StoreUnavailable) as refused:
        await fill()
    assert refused.value.retry_after
    await pool.execute("DROP TABLE big")
    async with transaction(pool) as conn:
        await conn.execute(f"CREATE TABLE small (content text) TABLESPACE {space}")
    await pool.execute("DROP TABLE small")
    await pool.execute(f"DROP TABLESPACE {space}")


async def test_a_database_that_starts_late_is_waited_for(tmp_path: Path) -> None:
    with embedded_postgres() as server:
        server.process.stop()
        opening = asyncio.create_task(open_pool(server.url()))
        await asyncio.wait({opening}, timeout=0.3)
        assert not opening.done()
        await asyncio.to_thread(server.start)
        pool = await opening
        assert await pool.fetchval("SELECT 1") == 1
        await pool.close()


async def test_a_database_that_never_starts_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await open_pool(f"postgresql://postgres@/none?host={tmp_path}", patience=0)


async def test_a_pool_closes_in_time_also_when_a_connection_is_never_given_back(database_url: str) -> None:
    pool = await open_pool(database_url)
    lost = await pool.acquire()
    async with asyncio.timeout(5):
        await close_pool(pool, patience=0.1)
    with pytest.raises(asyncpg.InterfaceError):
        await lost.execute("SELECT 1")
