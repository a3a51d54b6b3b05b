"""What the upgrade guide promises of migrations: they add, and processes tell when the last one is missing."""

import importlib
import re
from collections.abc import Callable
from importlib.resources import files

import pytest
from slipway_chassis import postgres
from slipway_chassis.postgres import open_pool
from slipway_chassis.schema import Schema

SERVICES = ("gateway", "router", "orchestrator", "memory", "tools", "audit")
# What a process of the release before would stumble over.
_CONTRACTING = re.compile(
    r"\bDROP\s+(TABLE|COLUMN|FUNCTION|VIEW|TYPE)\b|\bRENAME\s+(TO|COLUMN)\b|\bSET\s+NOT\s+NULL\b"
    r"|\bALTER\s+COLUMN\s+\w+\s+TYPE\b|\bADD\s+COLUMN\s+\w+\s+[\w ()]+?\bNOT\s+NULL\b(?!\s+DEFAULT)",
    re.IGNORECASE,
)
# Written before there was a first release: no fleet has ever had the schema before them.
_BEFORE_THE_FIRST_RELEASE = {"0005_steering.sql", "0006_journal.sql", "0011_retention.sql"}


def schema(service: str) -> Schema:
    found = importlib.import_module(f"slipway_{service}.migrate").SCHEMA
    assert isinstance(found, Schema)
    return found


@pytest.mark.parametrize("service", SERVICES)
async def test_a_process_that_checks_refuses_the_schema_before_its_own_and_starts_on_a_later_one(
    service: str, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = schema(service)
    *before, last = postgres.digests(ours.package, chassis=ours.chassis)
    async with await open_pool(new_database(), max_size=2) as pool:
        with monkeypatch.context() as release_before:
            scripts = postgres._scripts  # the release before had all but the last of them
            release_before.setattr(postgres, "_scripts", lambda *of: scripts(*of)[:-1])
            await ours.prepare(pool, "apply")
            await ours.prepare(pool, "check")
        assert {row["name"] for row in await pool.fetch("SELECT name FROM slipway_migration")} == set(before)
        with pytest.raises(SystemExit, match=rf"lacks 1 migrations, first {re.escape(last)}: run `python -m"):
            await ours.prepare(pool, "check")
        await ours.prepare(pool, "apply")
        await ours.prepare(pool, "check")
        # As a process of this release finds it after the next one's migrations, and after a rollback to this one.
        await pool.execute("INSERT INTO slipway_migration (name, digest) VALUES ('9999_next.sql', 'x')")
        await ours.prepare(pool, "check")
        await ours.prepare(pool, "apply")


@pytest.mark.parametrize("service", SERVICES)
def test_migrations_add_and_take_nothing_away(service: str) -> None:
    for script in files(f"slipway_{service}").joinpath("migrations").iterdir():
        if script.name.endswith(".sql") and script.name not in _BEFORE_THE_FIRST_RELEASE:
            text = re.sub(r"--.*", "", script.read_text())
            assert not (found := _CONTRACTING.search(text)), f"{script.name}: {found and found[0]}"


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE run DROP COLUMN state;",
        "ALTER TABLE run RENAME TO runs;",
        "ALTER TABLE run ALTER COLUMN state TYPE int;",
        "ALTER TABLE run ADD COLUMN place text NOT NULL;",
        "ALTER TABLE run ALTER COLUMN place SET NOT NULL;",
        "drop table run;",
    ],
)
def test_what_takes_away_is_recognised(statement: str) -> None:
    assert _CONTRACTING.search(statement)
    assert not _CONTRACTING.search("ALTER TABLE run ADD COLUMN place text NOT NULL DEFAULT '';")
