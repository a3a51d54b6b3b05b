"""Old and new workers side by side, a rollback, and workers that hand their runs over. Processes on real servers.

An old worker is this one that believes to be of the release before: it knows journals of version 1 only.
"""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from orchestrator_testing.definitions import workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Process, Stack
from slipway.runs.v1 import runs_pb2

_OLD = """
from slipway_orchestrator.core import events
events.SCHEMA_VERSION = 1
from slipway_orchestrator.main import main
main(["worker"])
"""
_PLAIN = workflow(
    "    - {id: gate, approval: {approvers: ['role:refund-approver'], show: 1}}\n    - {id: a, set: 7}",
    "{a: '${steps.a.output}'}",
    name="plain",
    properties="{message: {type: string}}",
)
_TREE = workflow(
    "    - {id: both, parallel: [{id: a, set: 1}, {id: b, set: 2}]}\n    - {id: c, set: 3}",
    "{c: '${steps.c.output}'}",
    name="tree",
)
_NEVER = {"SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS": "600", "SLIPWAY_ORCHESTRATOR_LEASE_SECONDS": "600"}


async def _old_worker(stack: Stack) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _OLD,
        env={**os.environ, **stack.environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    worker = Process(process)
    stack.processes.append(worker)
    await worker.ready()
    return worker


async def _promote(stack: Stack) -> None:
    await stack.promote(_PLAIN, name="plain")
    await stack.promote(_TREE, name="tree")


async def _workers_of(stack: Stack, run_id: str) -> set[str]:
    rows = await stack.sql("SELECT DISTINCT epoch FROM run_event WHERE run_id = $1 AND epoch > 0", run_id)
    return {row["epoch"] for row in rows}


async def test_an_old_worker_leaves_to_new_ones_what_it_cannot_read_and_does_the_rest(stack: Stack) -> None:
    await _old_worker(stack)
    await _promote(stack)
    trees = [await stack.begin({}, "tree") for _ in range(2)]
    # Large values lie where the old release does not look.
    large = await stack.begin({"message": "x" * 70_000}, "plain")
    plain = await stack.begin({}, "plain")
    await stack.decide(await stack.pending(plain), "approve")
    assert json.loads((await stack.finish(plain)).output_json) == {"a": 7}
    for run_id in (*trees, large):
        assert await _workers_of(stack, run_id) == set()
    await stack.worker()
    await stack.decide(await stack.pending(large), "approve")
    assert json.loads((await stack.finish(large)).output_json) == {"a": 7}
    for run_id in trees:
        assert json.loads((await stack.finish(run_id)).output_json) == {"c": 3}


async def test_a_rollback_goes_on_with_runs_that_the_new_release_has_begun(stack: Stack) -> None:
    new = await stack.worker()
    await _promote(stack)
    plain = await stack.begin({}, "plain")
    approval = await stack.pending(plain)
    new.send(signal.SIGTERM)
    assert await new.ended() == 0
    old = await _old_worker(stack)
    await stack.decide(approval, "approve")
    assert json.loads((await stack.finish(plain)).output_json) == {"a": 7}
    # What only the new release can read waits for it, untouched.
    tree = await stack.begin({}, "tree")
    second = await stack.begin({}, "plain")
    await stack.pending(second)
    assert (await stack.get(tree)).state == runs_pb2.RUN_STATE_QUEUED
    old.send(signal.SIGTERM)
    assert await old.ended() == 0
    await stack.worker()
    assert json.loads((await stack.finish(tree)).output_json) == {"c": 3}


async def test_a_worker_that_drains_hands_its_runs_to_another_at_once(stack: Stack, world: World) -> None:
    first = True

    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        nonlocal first
        if first:
            first = False
            world.held.set()
            await world.hold.wait()
        return {"refund": 50}

    world.tool = slow
    # Neither a sweep nor the end of a lease brings the run to the other worker in time: only that it is told.
    leaving = await stack.worker(**_NEVER)
    await stack.promote(workflow("    - {id: amount, tool: {name: python, arguments: {code: x}}}"))
    run_id = await stack.begin()
    await asyncio.wait_for(world.held.wait(), 20)
    await stack.worker(**_NEVER)
    leaving.send(signal.SIGTERM)
    world.hold.set()
    assert (await stack.finish(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
    assert world.effects[f"{run_id}/amount/1"] == 1
    assert await leaving.ended() == 0


async def test_a_run_that_an_api_of_the_release_before_starts_is_its_own_root(stack: Stack) -> None:
    await stack.worker()
    await _promote(stack)
    run_id = await stack.begin({"message": "x"}, name="plain")
    await stack.watch(run_id, until="run.waiting")
    before = (
        "tenant, agent, version, digest, priority, wake_at, journal_version, subject, caller, session_id, labels,"
        " run_grant, input, last_seq, last_commitment, traceparent, trace_id, create_time, update_time"
    )
    insert = f"INSERT INTO run (run_id, state, {before}) SELECT 'run_old', 'PAUSED', {before} FROM run RETURNING *"
    (row,) = await stack.sql(insert)
    assert (row["root_run_id"], row["depth"]) == ("run_old", 0)
