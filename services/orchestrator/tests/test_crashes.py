"""Workers that die or freeze: nothing is lost, nothing is done twice, and who comes back late writes nothing."""

import asyncio
import json
import signal
from typing import Any

import pytest
from orchestrator_testing.definitions import REFUND_DESK, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Process, Stack

QUICK = {"SLIPWAY_ORCHESTRATOR_LEASE_SECONDS": "1", "SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS": "1"}
# The n-th passing of a point in the one definition: its four effects have four intents and results.
CASES = {
    "after-claim": (1, 2),
    "before-intent": (1, 5),
    "after-intent": (2, 4),
    "before-effect": (3,),
    "after-effect": (1, 3, 4),
    "before-result": (2, 5),
    "after-result": (1, 4),
    "before-park": (1,),
    "after-park": (1,),
}


@pytest.fixture
async def survivor(stack: Stack) -> Process:
    """A healthy worker, frozen until the other one is dead."""
    worker = await stack.worker(**QUICK)
    worker.send(signal.SIGSTOP)
    await stack.promote(REFUND_DESK)
    return worker


async def _decided(stack: Stack, run_id: str) -> None:
    await stack.decide(await stack.pending(run_id), "approve")


async def _uninterrupted(stack: Stack, run_id: str, world: World) -> None:
    """What every run must come to, whatever happened to its workers."""
    run = await stack.get(run_id)
    assert run.state == 8, run
    assert json.loads(run.output_json) == {"reply": world.answer, "paid": {"posted": 120}, "nothing": None}
    events = await stack.journal(run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    completed = [event.step_id for event in events if event.kind == "step.completed"]
    assert completed == ["given", "policy", "answer", "amount", "pay"]
    assert sum(event.kind == "step.started" for event in events) == len(completed)
    assert {key: count for key, count in world.effects.items() if key.startswith(run_id)} == {
        f"{run_id}/{step}/1": 1 for step in ("policy", "answer", "amount", "pay")
    }
    leaves = await stack.sql("SELECT seq, commitment FROM run_event WHERE run_id = $1 ORDER BY seq", run_id)
    assert len({row["commitment"] for row in leaves}) == len(events)


@pytest.mark.parametrize("point", CASES)
async def test_a_worker_killed_at_any_point_loses_and_repeats_nothing(
    stack: Stack, survivor: Process, world: World, point: str
) -> None:
    for passing in CASES[point]:
        doomed = await stack.worker(**QUICK, SLIPWAY_ORCHESTRATOR_CRASH_AT=f"{point}:{passing}")
        run_id = await stack.begin()
        deciding = asyncio.create_task(_decided(stack, run_id))
        assert await doomed.ended() == -signal.SIGKILL, "".join(doomed.lines[-20:])
        survivor.send(signal.SIGCONT)
        await deciding
        await stack.finish(run_id)
        await _uninterrupted(stack, run_id, world)
        survivor.send(signal.SIGSTOP)


TREE = """
    - {id: list, set: [1, 2, 3, 4, 5]}
    - parallel:
        - map:
            over: "${steps.list.output}"
            concurrency: 2
            steps:
              - {id: post, tool: {name: ledger.post, arguments: {amount: "${item}"}}}
              - branch: [{when: "item > 3", steps: [{id: note, set: "${steps.post.output.posted}"}]}]
              - {id: sum, set: "${item + index}"}
        - {id: help, agent: {name: helper, input: {n: 7}}}
        - {id: cool, wait: {for: 50ms}}
    - {id: last, tool: {name: ledger.post, arguments: {amount: 9}}}"""
RESULT = "{sums: '${steps.map_1.output}', help: '${steps.help.output}', last: '${steps.last.output.posted}'}"
HELPER = workflow(
    "    - {id: post, tool: {name: ledger.post, arguments: {amount: '${input.n}'}}}",
    "{n: '${steps.post.output.posted}'}",
    name="helper",
    properties="{n: {type: integer}}",
)
# Where the run or its child is when a worker dies; most points are passed by both.
TREE_CASES = {
    "before-commit": (4,),
    "after-commit": (6, 9),
    "before-fan-out": (1,),
    "after-fan-out": (1,),
    "before-join": (1,),
    "after-join": (2,),
    "before-child-start": (1,),
    "after-child-start": (1,),
    "before-child-end": (1,),
    "after-child-end": (1,),
    "before-end": (1,),
    "after-end": (1,),
    "before-effect": (3,),
    "after-effect": (5,),
}


@pytest.mark.timeout(240)
async def test_a_tree_of_steps_and_runs_survives_a_death_at_any_point(stack: Stack, world: World) -> None:
    survivor = await stack.worker(**QUICK)
    survivor.send(signal.SIGSTOP)
    await stack.promote(HELPER, name="helper")
    await stack.promote(workflow(TREE, RESULT))
    for point, passings in TREE_CASES.items():
        for passing in passings:
            doomed = await stack.worker(**QUICK, SLIPWAY_ORCHESTRATOR_CRASH_AT=f"{point}:{passing}")
            run_id = await stack.begin()
            assert await doomed.ended() == -signal.SIGKILL, "".join(doomed.lines[-20:])
            survivor.send(signal.SIGCONT)
            run = await stack.finish(run_id)
            where = f"{point}:{passing}"
            assert run.state == 8, (where, run)
            assert json.loads(run.output_json) == {"sums": [1, 3, 5, 7, 9], "help": {"n": 7}, "last": 9}, where
            rows = await stack.sql("SELECT run_id FROM run WHERE root_run_id = $1 AND depth = 1", run_id)
            (child,) = [row["run_id"] for row in rows]
            assert (await stack.finish(child)).state == 8
            own = {key: count for key, count in world.effects.items() if key.startswith((run_id, child))}
            expected = {f"{run_id}/post[{n}]/1": 1 for n in range(5)}
            assert own == {**expected, f"{run_id}/last/1": 1, f"{child}/post/1": 1}, where
            for one in (run_id, child):
                events = await stack.journal(one)
                assert [event.seq for event in events] == list(range(1, len(events) + 1)), where
                begun = [event.step_id for event in events if event.kind == "step.started"]
                assert len(begun) == len(set(begun)), where
            survivor.send(signal.SIGSTOP)


async def test_a_worker_that_froze_past_its_lease_writes_nothing_when_it_comes_back(
    stack: Stack, world: World, eventually: Any
) -> None:
    holding: dict[str, bool] = {"first": True}

    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        if holding.pop("first", False):
            world.held.set()
            await world.hold.wait()
        return {"refund": 50}

    world.tool = slow
    frozen = await stack.worker(**QUICK)
    await stack.promote(
        workflow(
            "    - {id: amount, tool: {name: python, arguments: {code: x}}}", "{r: '${steps.amount.output.refund}'}"
        )
    )
    run_id = await stack.begin()
    await asyncio.wait_for(world.held.wait(), 20)
    frozen.send(signal.SIGSTOP)
    other = await stack.worker(**QUICK)
    await stack.watch(run_id, until="run.recovered")
    world.hold.set()
    assert (await stack.finish(run_id)).state == 8
    before = await stack.journal(run_id)
    assert "run.recovered" in [event.kind for event in before]
    frozen.send(signal.SIGCONT)
    await eventually(lambda: any("lease.lost" in line for line in frozen.lines), timeout=20)
    assert [(e.seq, e.kind) for e in await stack.journal(run_id)] == [(e.seq, e.kind) for e in before]
    assert other.process.returncode is None


async def test_the_crash_points_are_refused_outside_of_tests(stack: Stack) -> None:
    with pytest.raises(AssertionError, match="SLIPWAY_ENV=test"):
        await stack.worker(SLIPWAY_ENV="production", SLIPWAY_ORCHESTRATOR_CRASH_AT="after-claim")


async def test_a_stopped_worker_gives_its_runs_back_at_once(stack: Stack, world: World) -> None:
    first = True

    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        nonlocal first
        if first:
            first = False
            world.held.set()
            await world.hold.wait()
        return {"refund": 50}

    world.tool = slow
    leaving = await stack.worker(SLIPWAY_ORCHESTRATOR_LEASE_SECONDS="600", SLIPWAY_ORCHESTRATOR_SHUTDOWN_GRACE="0")
    await stack.promote(workflow("    - {id: amount, tool: {name: python, arguments: {code: x}}}"))
    run_id = await stack.begin()
    await asyncio.wait_for(world.held.wait(), 20)
    leaving.send(signal.SIGTERM)
    assert await leaving.ended() == 0
    world.hold.set()
    await stack.worker()
    assert (await stack.finish(run_id)).state == 8


async def test_a_run_that_no_worker_can_advance_is_given_up_with_a_reason(stack: Stack) -> None:
    await stack.promote(workflow("    - {id: a, set: 1}"))
    run_id = await stack.begin()
    await stack.sql("UPDATE run SET lease_epoch = 20 WHERE run_id = $1", run_id)
    await stack.worker()
    run = await stack.finish(run_id)
    assert (run.state, run.error.code) == (9, "RUN_STUCK")
