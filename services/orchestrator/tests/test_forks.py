"""Forks: a journal copied up to an event, in a chain of its own; what was done before is not done again."""

import asyncio
import json
from typing import Any

import pytest
from orchestrator_testing.definitions import REFUND_DESK, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2 as pb
from slipway.tools.v1 import tools_pb2
from slipway_chassis.bus import Message, open_bus
from slipway_chassis.errors import SlipwayError

PYTHON = "tool: {name: python, arguments: {code: '${input.message}'}}"
TWO = workflow(
    f"    - {{id: a, {PYTHON}}}\n    - {{id: b, {PYTHON}}}",
    "{a: '${steps.a.output.refund}', b: '${steps.b.output.refund}', message: '${input.message}'}",
)


async def _fork(stack: Stack, run_id: str, seq: int, who: str = "alice", **more: Any) -> Any:
    request = pb.ForkRunRequest(run_id=run_id, seq=seq, run_grant=f"{who}/acme/refund-desk", **more)
    return (await stack.call(stack.runs.ForkRun, request, who)).run


async def _refused(call: Any) -> tuple[str, str | None]:
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.reason, caught.value.field


def _seq(events: list[Any], kind: str, step: str = "") -> int:
    return next(event.seq for event in events if event.kind == kind and step in ("", event.step_id))


@pytest.fixture
async def desk(stack: Stack) -> Stack:
    """Two tool calls in production, and a worker."""
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="60")
    await stack.promote(TWO)
    return stack


async def test_a_fork_takes_over_what_was_done_and_does_the_rest(desk: Stack, world: World) -> None:
    source = await desk.finish(await desk.begin({"message": "x"}))
    events = await desk.journal(source.run_id)
    fork = await _fork(desk, source.run_id, _seq(events, "step.completed", "a"), labels={"why": "try again"})
    ended = await desk.finish(fork.run_id)
    assert (ended.state, ended.output_json) == (pb.RUN_STATE_SUCCEEDED, source.output_json)
    assert (ended.forked_from.run_id, ended.forked_from.seq) == (source.run_id, 3)
    assert (ended.caller, dict(ended.labels), ended.root_run_id) == ("alice", {"why": "try again"}, ended.run_id)
    assert not world.calls[f"{ended.run_id}/a/1"]
    assert world.effects[f"{ended.run_id}/b/1"] == 1
    copied = await desk.journal(ended.run_id)
    assert [event.seq for event in copied] == list(range(1, len(copied) + 1))
    assert [event.data_json for event in copied[1:3]] == [event.data_json for event in events[1:3]]
    assert copied[3].kind == "run.forked"
    assert json.loads(copied[3].data_json) == {
        "from_run_id": source.run_id,
        "from_seq": 3,
        "by": "alice",
        "version": 1,
        "input_changed": False,
    }
    assert (await desk.journal(source.run_id)) == events


async def test_a_fork_in_the_middle_of_an_intent_decides_it_anew(desk: Stack, world: World) -> None:
    source = await desk.finish(await desk.begin({"message": "x"}))
    events = await desk.journal(source.run_id)
    fork = await _fork(desk, source.run_id, _seq(events, "step.started", "b"), input_json='{"message": "y"}')
    ended = await desk.finish(fork.run_id)
    assert json.loads(ended.output_json)["message"] == "y"
    assert json.loads(ended.input_json) == {"message": "y"}
    again = [
        event for event in await desk.journal(ended.run_id) if event.kind == "step.started" and event.step_id == "b"
    ]
    codes = [json.loads(event.data_json)["input"]["arguments"]["code"] for event in again]
    assert codes == ["x", "y"]
    assert ended.usage.steps == 2
    assert world.effects[f"{ended.run_id}/b/1"] == 1


async def test_a_fork_after_a_failed_step_tries_it_again(desk: Stack, world: World) -> None:
    async def broken(name: str, arguments: Any, attempt: int) -> Any:
        return tools_pb2.ToolError(code="EXIT_STATUS", message="status 1")

    world.tool = broken
    source = await desk.finish(await desk.begin({"message": "x"}))
    assert source.state == pb.RUN_STATE_FAILED
    world.tool = None
    fork = await _fork(desk, source.run_id, _seq(await desk.journal(source.run_id), "step.failed", "a"))
    assert (await desk.finish(fork.run_id)).state == pb.RUN_STATE_SUCCEEDED
    assert world.effects[f"{fork.run_id}/a/1"] == 1


async def test_a_fork_goes_on_under_another_version(desk: Stack) -> None:
    done = await desk.finish(await desk.begin({"message": "x"}))
    better = workflow(f"    - {{id: a, {PYTHON}}}\n    - {{id: c, set: better}}", "{c: '${steps.c.output}'}")
    version = await desk.promote(better)
    events = await desk.journal(done.run_id)
    fork = await _fork(desk, done.run_id, _seq(events, "step.completed", "a"), version=version)
    ended = await desk.finish(fork.run_id)
    assert (ended.version, json.loads(ended.output_json)) == (version, {"c": "better"})


async def test_a_gate_that_was_open_is_asked_for_again_and_the_old_one_stays_the_others(stack: Stack) -> None:
    await stack.worker()
    await stack.promote(REFUND_DESK)
    source = await stack.begin()
    old = await stack.pending(source)
    seq = (await stack.get(source)).last_seq
    fork = await _fork(stack, source, seq)
    async with asyncio.timeout(30):
        while not (pending := (await stack.get(fork.run_id)).pending_approval_ids):
            await stack.watch(fork.run_id, after=seq + 1, until="run.waiting")
    (approval_id,) = pending
    assert approval_id != old.approval_id
    fresh = (await stack.call(stack.runs.GetApproval, pb.GetApprovalRequest(approval_id=approval_id), "bob")).approval
    await stack.decide(fresh, "approve")
    assert (await stack.finish(fork.run_id)).state == pb.RUN_STATE_SUCCEEDED
    assert (await stack.get(source)).pending_approval_ids == [old.approval_id]


async def test_a_fork_of_nothing_or_beyond_the_end_is_refused(desk: Stack) -> None:
    source = await desk.finish(await desk.begin({"message": "x"}))
    assert await _refused(_fork(desk, source.run_id, 0)) == ("FORK_POINT_INVALID", "seq")
    assert await _refused(_fork(desk, source.run_id, -1)) == ("FORK_POINT_INVALID", "seq")
    assert await _refused(_fork(desk, source.run_id, source.last_seq + 1)) == ("FORK_POINT_INVALID", "seq")
    assert await _refused(_fork(desk, source.run_id, source.last_seq)) == ("FORK_POINT_INVALID", "seq")
    assert await _refused(_fork(desk, source.run_id, 1, version=9)) == ("AGENT_VERSION_NOT_FOUND", None)
    assert await _refused(_fork(desk, source.run_id, 1, input_json='{"message": 3}')) == (
        "INPUT_INVALID",
        "input.message",
    )
    assert len(await desk.sql("SELECT run_id FROM run")) == 1


async def test_large_values_are_taken_over_as_well(stack: Stack) -> None:
    await stack.worker()
    steps = "    - {id: a, set: '${input.message}'}\n    - {id: b, set: '${steps.a.output}'}"
    await stack.promote(workflow(steps, "{b: '${size(steps.b.output)}'}"))
    source = await stack.finish(await stack.begin({"message": "x" * 100_000}))
    events = await stack.journal(source.run_id)
    fork = await stack.finish((await _fork(stack, source.run_id, _seq(events, "step.completed", "a"))).run_id)
    assert (fork.output_json, fork.input_json) == (source.output_json, source.input_json)
    assert (await stack.journal(fork.run_id))[2].data_json == events[2].data_json


async def test_the_same_request_forks_once(desk: Stack) -> None:
    source = await desk.begin({"message": "x"})
    forks = await asyncio.gather(*(_fork(desk, source, 1, request_id="f1") for _ in range(3)))
    assert len({fork.run_id for fork in forks}) == 1
    assert await _refused(_fork(desk, source, 1, request_id="f1", version=1)) == (
        "IDEMPOTENCY_KEY_REUSED",
        "request_id",
    )


async def test_a_forks_journal_is_a_chain_of_its_own(desk: Stack, valkey_url: str, eventually: Any) -> None:
    messages: list[Message] = []
    bus = await open_bus(valkey_url)

    async def take(message: Message, _delivery: int) -> None:
        messages.append(message)

    consuming = asyncio.create_task(bus.consume("audit.events", "fork-probe", take))
    try:
        source = await desk.finish(await desk.begin({"message": "x"}))
        fork = await desk.finish((await _fork(desk, source.run_id, 3)).run_id)

        def chain() -> list[dict[str, Any]]:
            bodies = {message.id: json.loads(message.body) for message in messages}
            read = [{**json.loads(body["event"]), "commitment": body["commitment"]} for body in bodies.values()]
            mine = [event for event in read if event.get("run_id") == fork.run_id and event["type"] == "run.event"]
            return sorted(mine, key=lambda event: event["seq"])

        await eventually(lambda: len(chain()) == fork.last_seq, timeout=60)
    finally:
        consuming.cancel()
        await asyncio.wait({consuming})
        await bus.close()
    found = chain()
    assert [event["prev"] for event in found] == ["0" * 64, *(event["commitment"] for event in found[:-1])]
    assert [event["seq"] for event in found] == list(range(1, fork.last_seq + 1))


async def test_what_somebody_else_forks_stays_the_first_subjects_data(desk: Stack) -> None:
    source = await desk.finish(await desk.begin({"message": "x"}))
    fork = await _fork(desk, source.run_id, 3, who="dave")
    ended = await desk.finish(fork.run_id)
    assert ended.caller == "dave"
    (row,) = await desk.sql("SELECT subject FROM run WHERE run_id = $1", fork.run_id)
    assert row["subject"] == "alice"
    assert (await desk.get(fork.run_id)).state == pb.RUN_STATE_SUCCEEDED
