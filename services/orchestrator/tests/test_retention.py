"""Finished runs go when their rule says so; their journals go with the partition of their month. On PostgreSQL."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from orchestrator_testing.database import Runs
from orchestrator_testing.definitions import workflow
from orchestrator_testing.stack import Stack
from pydantic import ValidationError
from slipway_chassis.postgres import migrate, open_pool
from slipway_orchestrator.settings import OrchestratorSettings
from slipway_orchestrator.store.retention import Retention

_EVENT = """
INSERT INTO run_event (run_id, seq, kind, schema_version, epoch, time, data, commitment)
SELECT $1, seq, 'step.completed', 1, 1, now(), '', '' FROM generate_series(1, 3) AS seq
"""
_PAYLOAD = (
    "INSERT INTO run_payload (month, tenant, subject, digest, bytes, content) VALUES ($1, 'acme', 'a', $2, 1, '')"
)
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


@pytest.fixture
async def runs(database_url: str) -> AsyncIterator[Runs]:
    async with await open_pool(database_url) as pool:
        await migrate(pool, "slipway_orchestrator", chassis=("outbox", "idempotency", "subject_keys"))
        yield Runs(pool)


def id_at(moment: datetime, number: int) -> str:
    """A run's id as it would have been made then."""
    milliseconds = int(moment.timestamp() * 1000)
    return "run_" + "".join(_ALPHABET[(milliseconds >> (45 - 5 * n)) & 31] for n in range(10)) + f"{number:016d}"


async def past(
    runs: Runs, days: int, *, tenant: str = "acme", state: str = "SUCCEEDED", number: int = 0, lasted: int = 0
) -> str:
    """A run that began so many days ago, with its journal; it ended `lasted` days later, unless its state says no."""
    began = datetime.now(UTC) - timedelta(days=days)
    (run_id,) = await runs.add(tenant)
    old = id_at(began, number)
    month = began.date().replace(day=1)
    await runs.pool.execute("SELECT make_journal_partition($1)", month)
    ended = began + timedelta(days=lasted) if state in ("SUCCEEDED", "FAILED", "CANCELLED") else None
    await runs.pool.execute(
        "UPDATE run SET run_id = $2, root_run_id = $2, state = $3, create_time = $4, end_time = $5 WHERE run_id = $1",
        run_id,
        old,
        state,
        began,
        ended,
    )
    await runs.pool.execute(_EVENT, old)
    await runs.pool.execute(_PAYLOAD, month, old)
    return old


async def left(runs: Runs) -> set[str]:
    return {row["run_id"] for row in await runs.pool.fetch("SELECT run_id FROM run")}


async def partitions(runs: Runs) -> set[str]:
    rows = await runs.pool.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent IN ('run_event'::regclass, 'run_payload'::regclass)"
    )
    return {row["name"] for row in rows}


def month_of(days: int) -> str:
    return f"{datetime.now(UTC) - timedelta(days=days):%Y_%m}"


async def test_months_of_which_no_run_is_left_are_dropped_whole(runs: Runs) -> None:
    old = [await past(runs, 200, number=number) for number in range(3)]
    young = await past(runs, 40)
    assert {f"run_event_{month_of(200)}", f"run_payload_{month_of(200)}"} <= await partitions(runs)
    await Retention(runs.pool, {"*": 90}).sweep()
    assert await left(runs) == {young}
    assert not {f"run_event_{month_of(200)}", f"run_payload_{month_of(200)}"} & await partitions(runs)
    events = await runs.pool.fetch("SELECT DISTINCT run_id FROM run_event")
    assert {row["run_id"] for row in events} == {young}
    assert not set(old) & await left(runs)


async def test_the_rule_that_names_the_tenant_goes_before_the_one_that_names_the_state(runs: Runs) -> None:
    rules = {"*": 100, "*/FAILED": 300, "acme": 30, "acme/CANCELLED": 400, "initech/FAILED": 10}
    kept = {
        await past(runs, 90, tenant="globex", number=1),
        await past(runs, 290, tenant="globex", state="FAILED", number=2),
        await past(runs, 390, state="CANCELLED", number=3),
        await past(runs, 20, number=4),
        await past(runs, 500, tenant="globex", state="WAITING_APPROVAL", number=5),
    }
    for number, (days, tenant, state) in enumerate(
        [(110, "globex", "SUCCEEDED"), (310, "globex", "FAILED"), (40, "acme", "FAILED"), (15, "initech", "FAILED")], 6
    ):
        await past(runs, days, tenant=tenant, state=state, number=number)
    await Retention(runs.pool, rules).sweep()
    assert await left(runs) == kept


async def test_without_a_rule_everything_stays(runs: Runs) -> None:
    old = await past(runs, 3000)
    await Retention(runs.pool, {}).sweep()
    await Retention(runs.pool, {"globex": 1}).sweep()
    assert await left(runs) == {old}


async def test_events_of_gone_runs_are_deleted_from_months_that_others_keep(runs: Runs) -> None:
    gone = await past(runs, 200, number=1)
    waits = await past(runs, 200, state="WAITING_SIGNAL", number=2)
    await Retention(runs.pool, {"*": 90}).sweep()
    assert await left(runs) == {waits}
    assert not await runs.pool.fetch("SELECT FROM run_event WHERE run_id = $1", gone)
    assert len(await runs.pool.fetch("SELECT FROM run_event WHERE run_id = $1", waits)) == 3


async def test_events_wait_for_their_partition_when_it_goes_soon(runs: Runs) -> None:
    gone = await past(runs, 100, number=1)
    soon = await past(runs, 100, number=2, lasted=15)
    await Retention(runs.pool, {"*": 90}).sweep()
    assert await left(runs) == {soon}
    assert len(await runs.pool.fetch("SELECT FROM run_event WHERE run_id = $1", gone)) == 3


async def test_runs_of_a_tree_stay_until_its_root_has_ended(runs: Runs) -> None:
    root = await past(runs, 200, state="WAITING_RUN", number=1)
    child = await past(runs, 200, number=2)
    await runs.pool.execute("UPDATE run SET root_run_id = $2 WHERE run_id = $1", child, root)
    retention = Retention(runs.pool, {"*": 90})
    await retention.sweep()
    assert await left(runs) == {root, child}
    await runs.pool.execute("UPDATE run SET state = 'FAILED', end_time = now() - interval '91 days'")
    await retention.sweep()
    assert await left(runs) == set()


async def test_partitions_of_the_months_to_come_are_made_and_take_what_lay_elsewhere(runs: Runs) -> None:
    before = await partitions(runs)
    ahead = (datetime.now(UTC).replace(day=1) + timedelta(days=63)).replace(day=2)
    await runs.pool.execute(_EVENT, id_at(ahead, 1))
    where = "SELECT DISTINCT tableoid::regclass::text FROM run_event"
    assert await runs.pool.fetchval(where) == "run_event_rest"
    await Retention(runs.pool, {}).sweep()
    assert await partitions(runs) > before
    assert await runs.pool.fetchval(where) == f"run_event_{ahead:%Y_%m}"
    assert await runs.pool.fetchval("SELECT count(*) FROM run_event") == 3


async def test_the_journal_of_a_run_lies_in_the_partition_of_its_start(stack: Stack) -> None:
    await stack.worker()
    await stack.promote(workflow("    - {id: a, set: '${input.message}'}", "{a: '${steps.a.output}'}"))
    run_id = await stack.begin({"message": "x" * 70_000})
    run = await stack.finish(run_id)
    assert json.loads(run.output_json) == {"a": "x" * 70_000}
    month = f"{datetime.now(UTC):%Y_%m}"
    for table in ("run_event", "run_payload"):
        rows = await stack.sql(f"SELECT DISTINCT tableoid::regclass::text AS name FROM {table}")
        assert [row["name"] for row in rows] == [f"{table}_{month}"]


@pytest.mark.parametrize("days", [{"acme": 0}, {"acme/RUNNING": 5}, {"/FAILED": 5}, {"": 5}], ids=str)
def test_rules_that_say_nothing_are_refused(days: dict[str, int]) -> None:
    required: dict[str, Any] = {
        name: "x" for name, field in OrchestratorSettings.model_fields.items() if field.is_required()
    }
    with pytest.raises(ValidationError, match="retention_days"):
        OrchestratorSettings(**required, retention_days=days)
