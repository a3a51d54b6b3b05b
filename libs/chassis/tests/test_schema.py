"""Migrating as a step of its own, and processes that only check."""

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from slipway_chassis.postgres import open_pool
from slipway_chassis.schema import Schema

SCHEMA = Schema("shop", ("outbox",))
PROGRAM = "from slipway_chassis.schema import Schema, run_migrations; run_migrations(Schema('shop', ('outbox',)))"


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations of a service `shop`."""
    folder = tmp_path / "slipway_shop" / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / "slipway_shop" / "__init__.py").touch()
    (folder / "0001_first.sql").write_text("CREATE TABLE item (id int);")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slipway_shop", raising=False)
    return folder


def migrate(database_url: str | None, migrations: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The process that migrates; without a URL it is not set."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(migrations.parent.parent)}
    if database_url is not None:
        environment["SLIPWAY_SHOP_DATABASE_URL"] = database_url
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


async def test_a_process_that_only_checks_starts_when_the_migration_has_run_and_not_before(
    database_url: str, migrations: Path
) -> None:
    async with await open_pool(database_url) as pool:
        with pytest.raises(SystemExit, match=r"lacks 3 migrations.*python -m slipway_shop.migrate"):
            await SCHEMA.prepare(pool, "check")
        assert await pool.fetchval("SELECT to_regclass('item')") is None
        looked = migrate(database_url, migrations, "--check")
        assert (looked.returncode, "lacks 3 migrations" in looked.stderr) == (1, True)
        assert await pool.fetchval("SELECT to_regclass('item')") is None
        ended = migrate(database_url, migrations)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert migrate(database_url, migrations, "--check").returncode == 0
        await SCHEMA.prepare(pool, "check")
        # The release before, after a rollback: what it does not know of is there already.
        await pool.execute("INSERT INTO slipway_migration (name, digest) VALUES ('0002_second.sql', 'x')")
        await SCHEMA.prepare(pool, "check")
        (migrations / "0003_third.sql").write_text("CREATE TABLE note (t text);")
        with pytest.raises(SystemExit, match=r"lacks 1 migrations, first 0003_third\.sql"):
            await SCHEMA.prepare(pool, "check")
        await SCHEMA.prepare(pool, "apply")
        assert await pool.fetchval("SELECT to_regclass('note')") is not None


async def test_a_migration_that_fails_ends_with_a_sentence_and_changes_nothing(
    database_url: str, migrations: Path
) -> None:
    (migrations / "0002_broken.sql").write_text("SELECT nonsense;")
    ended = migrate(database_url, migrations)
    assert ended.returncode == 1
    assert "the database of shop was left as it was" in ended.stderr
    assert "Traceback" not in ended.stderr
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT to_regclass('item')") is None
    await connection.close()


def test_the_missing_address_of_the_database_is_named(migrations: Path) -> None:
    ended = migrate(None, migrations)
    assert (ended.returncode, ended.stderr) == (2, "slipway: SLIPWAY_SHOP_DATABASE_URL is not set\n")
