"""Which run a worker takes: fair between tenants, by priority, within bounds; counted under a lock, on PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from orchestrator_testing.database import Runs
from orchestrator_testing.definitions import workflow
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2
from slipway_chassis.postgres import migrate, open_pool
from slipway_orchestrator.store.queue import RunQueue


@pytest.fixture
async def runs(database_url: str) -> AsyncIterator[Runs]:
    async with await open_pool(database_url) as pool:
        await migrate(pool, "slipway_orchestrator", chassis=("outbox", "idempotency", "subject_keys"))
        yield Runs(pool)


async def claimed(queue: RunQueue, most: int) -> list[str]:
    return [lease.run.run_id for lease in await queue.claim(most)]


async def tenants(queue: RunQueue, most: int) -> list[str]:
    return [lease.run.tenant for lease in await queue.claim(most)]


async def test_of_a_tenant_the_highest_priority_comes_first_and_then_the_one_that_is_due_longest(runs: Runs) -> None:
    (late,) = await runs.add(due_in=-1)
    (early,) = await runs.add(due_in=-5)
    (urgent,) = await runs.add("acme", "other", priority=9)
    queue = runs.queue()
    assert [await claimed(queue, 1) for _ in range(4)] == [[urgent], [early], [late], []]


async def test_a_run_is_not_claimed_before_its_time(runs: Runs) -> None:
    await runs.add(due_in=3600, priority=9, count=3)
    (now,) = await runs.add()
    queue = runs.queue()
    assert await claimed(queue, 10) == [now]
    wait = await queue.next_wake()
    assert wait is not None
    assert 0 < wait < 31  # the lease's end comes before


async def test_a_tenant_with_many_runs_does_not_keep_another_waiting(runs: Runs) -> None:
    await runs.add("acme", count=50, priority=9)
    await runs.add("globex", count=3, due_in=0)
    taken = Counter(await tenants(runs.queue(), 6))
    assert taken == {"acme": 3, "globex": 3}
    # Six of theirs run by now: who has fewer is next.
    await runs.add("initech", count=2, due_in=0)
    assert Counter(await tenants(runs.queue(), 4)) == {"initech": 2, "acme": 2}


async def test_equal_tenants_take_turns(runs: Runs) -> None:
    for tenant in ("acme", "globex", "initech"):
        await runs.add(tenant, count=3)
    queue = runs.queue()
    order: list[str] = []
    for _ in range(9):
        (lease,) = await queue.claim(1)
        order.append(lease.run.tenant)
        await runs.end(lease.run.run_id)
    assert [sorted(order[at : at + 3]) for at in (0, 3, 6)] == [["acme", "globex", "initech"]] * 3


async def test_no_more_runs_of_a_tenant_or_an_agent_are_advanced_than_allowed_however_many_workers_claim(
    runs: Runs,
) -> None:
    await runs.add("acme", "capped", count=20, concurrency=2)
    await runs.add("acme", "free", count=20)
    await runs.add("globex", "free", count=20)
    workers = [runs.queue(f"w{number}", tenant_concurrency=7) for number in range(6)]
    leases = [lease for found in await asyncio.gather(*(worker.claim(10) for worker in workers)) for lease in found]
    leases += [lease for worker in workers for lease in await worker.claim(10)]
    assert len({lease.run.run_id for lease in leases}) == len(leases)
    assert Counter(lease.run.tenant for lease in leases) == {"acme": 7, "globex": 7}
    assert Counter(lease.run.agent for lease in leases if lease.run.tenant == "acme")["capped"] == 2
    # The bound is of rows: what ended makes room, also when its worker never said so.
    await runs.end(next(lease.run.run_id for lease in leases if lease.run.agent == "capped"))
    (more,) = await workers[0].claim(10)
    assert more.run.tenant == "acme"


async def test_an_agent_at_its_bound_does_not_block_the_others_of_its_tenant(runs: Runs) -> None:
    await runs.add("acme", "capped", count=30, concurrency=1, priority=9)
    (other,) = await runs.add("acme", "other")
    assert other in await claimed(runs.queue(), 4)


async def test_a_worker_takes_runs_of_its_pool_only(runs: Runs) -> None:
    (plain,) = await runs.add()
    (special,) = await runs.add(worker_pool="gpu")
    assert await claimed(runs.queue("w1"), 5) == [plain]
    assert await claimed(runs.queue("w2", worker_pool="gpu"), 5) == [special]
    await runs.add(worker_pool="gpu", count=3)
    assert (await runs.queue().count())[1] == {"gpu": 3}


async def test_runs_of_one_session_are_claimed_one_after_the_other(runs: Runs) -> None:
    first, second = await runs.add(session="s1", count=2)
    (elsewhere,) = await runs.add(session="s2")
    (foreign,) = await runs.add("globex", session="s1")
    queue = runs.queue()
    assert set(await claimed(queue, 10)) == {first, elsewhere, foreign}
    assert await claimed(queue, 10) == []
    await runs.end(first)
    assert await claimed(queue, 10) == [second]


async def test_workers_leave_alone_what_they_cannot_read(runs: Runs) -> None:
    (new,) = await runs.add(version=2)
    (old,) = await runs.add(version=1)
    assert await claimed(runs.queue("old", journal_version=1), 5) == [old]
    assert await claimed(runs.queue("new", journal_version=2), 5) == [new]


async def test_many_workers_get_every_run_once(runs: Runs) -> None:
    ids = [run_id for tenant in ("acme", "globex") for run_id in await runs.add(tenant, count=60)]
    got: list[str] = []

    async def work(queue: RunQueue) -> None:
        while found := await claimed(queue, 7):
            got.extend(found)

    await asyncio.gather(*(work(runs.queue(f"w{number}")) for number in range(6)))
    assert sorted(got) == sorted(ids)


async def test_a_run_somebody_has_locked_holds_up_no_claim(runs: Runs) -> None:
    locked, free = await runs.add(count=2)
    async with runs.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT FROM run WHERE run_id = $1 FOR UPDATE", locked)
        assert await asyncio.wait_for(claimed(runs.queue(), 5), 10) == [free]


async def test_the_sweep_queues_runs_whose_wait_or_lease_is_over_and_no_others(runs: Runs) -> None:
    waits, lapsed, later = await runs.add(count=3)
    await runs.pool.execute("UPDATE run SET state = 'WAITING_TIMER' WHERE run_id = $1", waits)
    await runs.pool.execute("UPDATE run SET state = 'RUNNING', lease_owner = 'dead' WHERE run_id = $1", lapsed)
    await runs.pool.execute(
        "UPDATE run SET state = 'WAITING_TIMER', wake_at = now() + interval '1 hour' WHERE run_id = $1", later
    )
    queue = runs.queue()
    assert sorted(run_id for run_id, _, _ in await queue.requeue_due(10)) == sorted([waits, lapsed])
    assert {lease.run.run_id: lease.recovered for lease in await queue.claim(10)} == {waits: False, lapsed: True}


async def test_a_delayed_run_is_taken_when_its_time_comes_not_at_the_next_sweep(stack: Stack) -> None:
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="600")
    await stack.promote(workflow("    - {id: a, set: 1}"))
    not_before = Timestamp()
    not_before.FromDatetime(datetime.now(UTC) + timedelta(seconds=2))
    run_id = await stack.begin(not_before=not_before)
    run = await stack.finish(run_id)
    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED
    (_, second, *_) = await stack.journal(run_id)
    assert second.time.ToDatetime(UTC) >= not_before.ToDatetime(UTC)
