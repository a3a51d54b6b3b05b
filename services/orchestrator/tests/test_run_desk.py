"""Starting, listing and following runs; what belongs to another tenant does not exist."""

import asyncio
import json
import random
import time
from contextlib import aclosing
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from orchestrator_testing.definitions import REFUND_DESK, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2
from slipway_chassis.bus import Message, open_bus
from slipway_chassis.channel import stream
from slipway_chassis.errors import SlipwayError

SET = workflow("    - {id: a, set: '${input.message}'}", "{a: '${steps.a.output}'}")


async def _reason(call: Any) -> str:
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.reason


async def test_the_same_request_starts_one_run(stack: Stack) -> None:
    await stack.promote(SET)
    first = await stack.begin({"message": "a"}, request_id="r1")
    assert await stack.begin({"message": "a"}, request_id="r1") == first
    assert await _reason(stack.begin({"message": "b"}, request_id="r1")) == "IDEMPOTENCY_KEY_REUSED"
    both = await asyncio.gather(*(stack.begin({"message": "c"}, request_id="r2") for _ in range(5)))
    assert len(set(both)) == 1
    assert len(await stack.sql("SELECT run_id FROM run")) == 2


async def test_wrong_starts_name_the_field(stack: Stack) -> None:
    await stack.promote(
        workflow("    - {id: a, set: 1}", properties="{message: {type: string, pattern: '^A-[0-9]+$'}}")
    )
    for value, field in (({"message": 3}, "input.message"), ({"message": "B-1"}, "input.message"), ([], "input")):
        with pytest.raises(SlipwayError) as caught:
            await stack.begin(value)
        assert (caught.value.reason, caught.value.violations[0].field) == ("INPUT_INVALID", field)
    with pytest.raises(SlipwayError) as caught:
        await stack.begin({"message": "A-1"}, priority=10)
    assert caught.value.violations[0].field == "priority"
    assert await _reason(stack.begin({"message": "A-1"}, name="nobody")) == "AGENT_NOT_FOUND"
    assert await _reason(stack.begin({"message": "A-1"}, version=7)) == "AGENT_VERSION_NOT_FOUND"
    assert await _reason(stack.begin({"message": "A-1"}, who="erin")) == "POLICY_DENIED"


async def test_a_draft_version_cannot_be_run(stack: Stack) -> None:
    await stack.promote(SET)
    await stack.put(workflow("    - {id: a, set: 2}"))
    assert await _reason(stack.begin({"message": "x"}, version=2)) == "AGENT_NOT_IN_PRODUCTION"


async def test_another_tenants_run_does_not_exist(stack: Stack) -> None:
    await stack.promote(SET)
    run_id = await stack.begin({"message": "secret"})
    runs = stack.runs
    assert await _reason(stack.get(run_id, "gina")) == "RUN_NOT_FOUND"
    assert await _reason(stack.journal(run_id, "gina")) == "RUN_NOT_FOUND"
    assert (
        await _reason(stack.call(runs.CancelRun, runs_pb2.CancelRunRequest(run_id=run_id), "gina")) == "RUN_NOT_FOUND"
    )
    watch = stream(runs.WatchRun, runs_pb2.WatchRunRequest(run_id=run_id), token=stack.token("gina"), timeout=10)
    with pytest.raises(SlipwayError) as caught:
        await anext(watch)
    assert caught.value.reason == "RUN_NOT_FOUND"
    assert not (await stack.call(runs.ListRuns, runs_pb2.ListRunsRequest(), "gina")).runs
    agent = agents_pb2.GetAgentRequest(agent="refund-desk")
    assert await _reason(stack.call(stack.agents.GetAgent, agent, "gina")) == "AGENT_NOT_FOUND"
    assert await _reason(stack.get("run_nonsense")) == "RUN_NOT_FOUND"


async def test_runs_are_paged_newest_first_and_filtered(stack: Stack) -> None:
    await stack.promote(SET)
    ids = [await stack.begin({"message": "x"}, labels={"n": str(n % 2)}) for n in range(5)]

    async def page(**filters: Any) -> Any:
        return await stack.call(stack.runs.ListRuns, runs_pb2.ListRunsRequest(**filters))

    seen: list[str] = []
    token = ""
    while True:
        answer = await page(page_size=2, page_token=token)
        seen += [run.run_id for run in answer.runs]
        token = answer.next_page_token
        if not token:
            break
    assert seen == ids[::-1]
    assert [run.run_id for run in (await page(labels={"n": "1"})).runs] == [ids[3], ids[1]]
    assert len((await page(states=[runs_pb2.RUN_STATE_QUEUED])).runs) == 5
    assert not (await page(states=[runs_pb2.RUN_STATE_FAILED])).runs
    assert not (await page(agent="other")).runs
    assert await _reason(page(page_token="rubbish")) == "INVALID_PAGE_TOKEN"


async def test_watchers_get_every_event_once_wherever_they_begin_and_the_deltas(stack: Stack, world: World) -> None:
    await stack.worker()
    await stack.promote(REFUND_DESK)
    run_id = await stack.begin()
    deltas: list[runs_pb2.ModelDelta] = []
    events: list[Any] = []
    request = runs_pb2.WatchRunRequest(run_id=run_id, include_deltas=True)
    async for update in stream(stack.runs.WatchRun, request, token=stack.token("alice"), timeout=30):
        if update.HasField("delta"):
            deltas.append(update.delta)
            continue
        events.append(update.event)
        if update.event.kind == "run.waiting":
            (approval_id,) = (await stack.get(run_id)).pending_approval_ids
            approval = await stack.call(
                stack.runs.GetApproval, runs_pb2.GetApprovalRequest(approval_id=approval_id), "bob"
            )
            await stack.decide(approval.approval, "approve")
    assert "".join(delta.text for delta in deltas).strip() == world.answer
    assert [delta.offset for delta in deltas][:2] == [0, 2]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].kind == "run.succeeded"
    assert await stack.watch(run_id, after=5) == events[5:]
    assert await stack.watch(run_id, after=len(events)) == []


async def test_a_run_starts_not_before_its_time(stack: Stack) -> None:
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="60")
    await stack.promote(SET)
    later = Timestamp()
    later.FromMilliseconds(round((time.time() + 2) * 1000))
    run_id = await stack.begin({"message": "x"}, not_before=later)
    now = await stack.finish(await stack.begin({"message": "y"}))
    assert now.state == 8
    assert (await stack.get(run_id)).state == runs_pb2.RUN_STATE_QUEUED
    run = await stack.finish(run_id)
    assert run.end_time.ToNanoseconds() >= later.ToNanoseconds()


async def test_the_higher_priority_goes_first(stack: Stack) -> None:
    await stack.promote(SET)
    ids = {priority: await stack.begin({"message": "x"}, priority=priority) for priority in (0, 5, 9, 2)}
    await stack.worker(SLIPWAY_ORCHESTRATOR_CONCURRENCY="1")
    for run_id in ids.values():
        await stack.finish(run_id)
    rows = await stack.sql("SELECT priority FROM run ORDER BY end_time")
    assert [row["priority"] for row in rows] == [9, 5, 2, 0]


async def test_runs_go_on_without_the_bus(stack: Stack, free_port: Any) -> None:
    """Wake-ups are lost: the sweep finds what is due."""
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    await stack.worker(SLIPWAY_ORCHESTRATOR_BUS_URL=nowhere, SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="1")
    await stack.promote(REFUND_DESK)
    run_id = await stack.begin()
    approval = await stack.pending(run_id)
    await stack.decide(approval, "approve")
    assert (await stack.finish(run_id)).state == 8


async def test_the_journal_is_audited_as_a_chain_without_gap(stack: Stack, valkey_url: str, eventually: Any) -> None:
    messages: list[Message] = []
    bus = await open_bus(valkey_url)

    async def take(message: Message, _delivery: int) -> None:
        messages.append(message)

    consuming = asyncio.create_task(bus.consume("audit.events", "probe", take))
    try:
        await stack.worker()
        await stack.promote(REFUND_DESK)
        run_id = await stack.begin()
        await stack.decide(await stack.pending(run_id), "approve")
        run = await stack.finish(run_id)

        def events() -> list[dict[str, Any]]:
            bodies = {m.id: json.loads(m.body) for m in messages if m.tenant == "acme"}
            read = [(json.loads(body["event"]), body["commitment"]) for body in bodies.values()]
            mine = [{**event, "commitment": c} for event, c in read if event.get("run_id") == run_id]
            return sorted((e for e in mine if e["type"] == "run.event"), key=lambda e: e["seq"])

        await eventually(lambda: len(events()) == run.last_seq, timeout=60)
    finally:
        consuming.cancel()
        await asyncio.wait({consuming})
        await bus.close()
    chain = events()
    assert [event["seq"] for event in chain] == list(range(1, run.last_seq + 1))
    assert [event["prev"] for event in chain] == ["0" * 64, *(event["commitment"] for event in chain[:-1])]
    assert {event["actor"]["act"] for event in chain} == {"refund-desk@1"}
    assert {event["trace_id"] for event in chain} == {run.trace_id}
    decided = next(event for event in chain if event["data"]["kind"] == "approval.decided")
    decision = next(json.loads(m.body) for m in messages if m.id == decided["data"]["records"][0]["event_id"])
    assert decision["commitment"] == decided["data"]["records"][0]["commitment"]
    assert json.loads(decision["event"])["actor"]["subject"] == "bob"


async def test_an_event_of_the_future_is_refused(stack: Stack) -> None:
    await stack.promote(SET)
    run_id = await stack.begin({"message": "x"})
    listing = runs_pb2.ListRunEventsRequest(run_id=run_id, after_seq=2)
    assert await _reason(stack.call(stack.runs.ListRunEvents, listing)) == "EVENT_NOT_YET"
    watch = stream(
        stack.runs.WatchRun,
        runs_pb2.WatchRunRequest(run_id=run_id, after_seq=99),
        token=stack.token("alice"),
        timeout=10,
    )
    with pytest.raises(SlipwayError) as caught:
        await anext(watch)
    assert (caught.value.reason, caught.value.field) == ("EVENT_NOT_YET", "after_seq")
    seen = await stack.call(stack.runs.ListRunEvents, runs_pb2.ListRunEventsRequest(run_id=run_id, after_seq=1))
    assert not seen.events


async def test_a_watcher_that_goes_from_replica_to_replica_misses_nothing_and_sees_nothing_twice(stack: Stack) -> None:
    first = stack.runs
    await stack.start("api")
    replicas = [first, stack.runs]
    steps = "\n".join(f"    - {{id: s{n}, set: {n}}}" for n in range(36))
    await stack.promote(workflow(steps))
    for _ in range(2):
        await stack.worker()
    run_id = await stack.begin({"message": "x"})
    seen: list[int] = []
    kind, choose = "", random.Random(7)
    while kind != "run.succeeded":
        request = runs_pb2.WatchRunRequest(run_id=run_id, after_seq=seen[-1] if seen else 0, include_deltas=True)
        updates = stream(choose.choice(replicas).WatchRun, request, token=stack.token("alice"), timeout=30)
        left = choose.randint(1, 9)
        async with aclosing(updates):
            async for update in updates:
                seen.append(update.event.seq)
                kind, left = update.event.kind, left - 1
                if left == 0:
                    break
    assert seen == list(range(1, 75))
