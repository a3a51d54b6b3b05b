"""Commits of several runs in one transaction: each under its own fence, none at the mercy of another. On PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from orchestrator_testing.database import Runs
from slipway_chassis.bus import open_bus
from slipway_chassis.postgres import migrate, open_pool
from slipway_orchestrator.core.events import Event, RunSucceeded, RunWaiting, StepCompleted, StepStarted
from slipway_orchestrator.core.state import Totals
from slipway_orchestrator.store.committing import LeaseLost
from slipway_orchestrator.store.leases import Entry, Lease, Leases


@pytest.fixture
async def runs(database_url: str) -> AsyncIterator[Runs]:
    async with await open_pool(database_url) as pool:
        await migrate(pool, "slipway_orchestrator", chassis=("outbox", "idempotency", "subject_keys"))
        yield Runs(pool)


@pytest.fixture
async def leases(runs: Runs, valkey_url: str) -> AsyncIterator[Leases]:
    bus = await open_bus(valkey_url)
    yield runs.leases(bus)
    await bus.close()


def step(number: int = 1, output: Any = 1) -> list[Event]:
    return [StepStarted(f"s{number}", "set", 1, None), StepCompleted(f"s{number}", "set", output, attempt=1)]


def entry(lease: Lease, *events: Event) -> Entry:
    return Entry(events=[(lease.now(), event) for event in events])


async def held(runs: Runs, count: int) -> list[Lease]:
    await runs.add(count=count)
    return await runs.queue().claim(count)


async def rows(runs: Runs, query: str, *arguments: Any) -> list[Any]:
    return await runs.pool.fetch(query, *arguments)


async def test_commits_that_come_together_go_in_few_transactions_and_each_is_whole(runs: Runs, leases: Leases) -> None:
    mine = await held(runs, 8)
    for number in range(3):
        await asyncio.gather(
            *(leases.commit(lease, entry(lease, *step(number)), Totals(steps=number + 1)) for lease in mine)
        )
    for lease in mine:
        found = await rows(
            runs, "SELECT seq, kind, epoch FROM run_event WHERE run_id = $1 ORDER BY seq", lease.run.run_id
        )
        assert [tuple(row) for row in found] == [
            (seq, kind, 1) for seq, kind in zip(range(2, 8), ["step.started", "step.completed"] * 3, strict=True)
        ]
        (run,) = await rows(runs, "SELECT * FROM run WHERE run_id = $1", lease.run.run_id)
        assert (run["last_seq"], run["steps"], run["last_commitment"]) == (7, 3, lease.head.commitment)
        sent = await rows(
            runs,
            "SELECT headers::json->>'commitment' AS c FROM outbox WHERE ordering_key = $1 ORDER BY id",
            run["run_id"],
        )
        chain = await rows(runs, "SELECT commitment AS c FROM run_event WHERE run_id = $1 ORDER BY seq", run["run_id"])
        assert [row["c"] for row in sent] == [row["c"] for row in chain]
    (written,) = await rows(runs, "SELECT count(DISTINCT xmin::text) AS n FROM run_event")
    assert written["n"] <= 12  # of 24 commits


async def test_a_lost_lease_fails_its_own_run_only(runs: Runs, leases: Leases) -> None:
    mine = await held(runs, 6)
    lost = mine[3]
    await runs.pool.execute("UPDATE run SET lease_epoch = 9, lease_owner = 'other' WHERE run_id = $1", lost.run.run_id)
    outcomes = await asyncio.gather(
        *(leases.commit(lease, entry(lease, *step()), Totals()) for lease in mine), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [bool, bool, bool, LeaseLost, bool, bool]
    written = await rows(runs, "SELECT DISTINCT run_id FROM run_event")
    assert {row["run_id"] for row in written} == {lease.run.run_id for lease in mine if lease is not lost}
    assert not await rows(runs, "SELECT FROM outbox WHERE ordering_key = $1", lost.run.run_id)
    assert lost.head.seq == 1


async def test_a_run_that_somebody_has_locked_holds_up_itself_only(runs: Runs, leases: Leases) -> None:
    mine = await held(runs, 4)
    async with runs.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await conn.execute("SELECT FROM run WHERE run_id = $1 FOR UPDATE", mine[1].run.run_id)
        commits = [asyncio.create_task(leases.commit(lease, entry(lease, *step()), Totals())) for lease in mine]
        done, waiting = await asyncio.wait(commits, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 3:
            more, waiting = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            assert more, "other runs wait for the one that is locked"
            done |= more
        assert waiting == {commits[1]}
        await transaction.rollback()
    assert await asyncio.wait_for(commits[1], 20) is False


async def test_what_the_database_refuses_fails_its_own_run_only(runs: Runs, leases: Leases) -> None:
    mine = await held(runs, 4)
    await runs.pool.execute(
        "INSERT INTO run_event (run_id, seq, kind, schema_version, epoch, time, data, commitment)"
        " VALUES ($1, 2, 'x', 1, 1, now(), '', '')",
        mine[2].run.run_id,
    )
    outcomes = await asyncio.gather(
        *(leases.commit(lease, entry(lease, *step()), Totals()) for lease in mine), return_exceptions=True
    )
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, False, True, False]


async def test_a_run_parks_unless_its_inbox_has_something(runs: Runs, leases: Leases) -> None:
    quiet, asked = await held(runs, 2)
    await runs.pool.execute("INSERT INTO run_inbox (run_id, kind, body) VALUES ($1, 'cancel', '')", asked.run.run_id)
    for lease in (quiet, asked):
        until = lease.now() + timedelta(hours=1)
        waiting = entry(lease, RunWaiting("WAITING_TIMER", until))
        assert await leases.commit(lease, waiting, Totals(), park=("WAITING_TIMER", until)) is (lease is asked)
    states = {row["run_id"]: (row["state"], row["due"]) for row in await rows(
        runs, "SELECT run_id, state, wake_at <= now() AS due FROM run")}  # fmt: skip
    assert states == {quiet.run.run_id: ("WAITING_TIMER", False), asked.run.run_id: ("QUEUED", True)}


async def test_an_answered_item_leaves_the_inbox_and_an_end_empties_it(runs: Runs, leases: Leases) -> None:
    (lease,) = await held(runs, 1)
    ids = [
        await runs.pool.fetchval(
            "INSERT INTO run_inbox (run_id, kind, body) VALUES ($1, 'cancel', '') RETURNING id", lease.run.run_id
        )
        for _ in range(3)
    ]
    answered = entry(lease, *step())
    answered.consumed = ids[:1]
    assert await leases.commit(lease, answered, Totals()) is True
    assert [row["id"] for row in await rows(runs, "SELECT id FROM run_inbox ORDER BY id")] == ids[1:]
    assert await leases.commit(lease, entry(lease, RunSucceeded({"a": 1})), Totals()) is False
    assert not await rows(runs, "SELECT FROM run_inbox")
    (run,) = await rows(runs, "SELECT * FROM run")
    assert (run["state"], run["lease_owner"], run["wake_at"]) == ("SUCCEEDED", None, None)
    assert run["end_time"] is not None
    with pytest.raises(LeaseLost):
        await leases.commit(lease, entry(lease, *step(2)), Totals())


async def test_a_large_value_is_stored_once_in_a_month_and_only_workers_that_know_where_take_the_run(
    runs: Runs, leases: Leases
) -> None:
    lease, other = await held(runs, 2)
    large = "x" * 100_000
    for number, one in enumerate((lease, lease, other)):
        await leases.commit(one, entry(one, *step(number, large)), Totals())
    (stored,) = await rows(runs, "SELECT tableoid::regclass::text AS part, bytes FROM run_payload")
    assert stored["bytes"] == 100_002
    assert stored["part"].startswith("run_payload_2")
    async with runs.pool.acquire() as conn:
        events = await runs.journal.read(conn, lease.run, 1, 10)
    assert [event.data.get("output") for event in events] == [None, large, None, large]
    assert {row["journal_version"] for row in await rows(runs, "SELECT journal_version FROM run")} == {2}
