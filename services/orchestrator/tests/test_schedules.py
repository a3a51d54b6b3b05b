"""Schedules: what can be put, and what workers start of it. Tests move a schedule's due time into the past."""

import asyncio
import json
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from orchestrator_testing.definitions import workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2
from slipway.runs.v1 import schedules_pb2 as pb
from slipway_chassis.errors import SlipwayError

SET = workflow("    - {id: a, set: '${input.message}'}", "{a: '${steps.a.output}'}")
GATE = workflow("    - {id: a, approval: {show: x, approvers: [role:refund-approver]}}")
QUICK = {"SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS": "1"}


async def _put(stack: Stack, name: str = "daily", who: str = "alice", agent: str = "refund-desk", **more: Any) -> Any:
    fields: dict[str, Any] = {
        "cron": "0 0 1 1 *",
        "time_zone": "UTC",
        "input_json": '{"message": "by the clock"}',
        "catch_up": Duration(seconds=3600),
        **more,
    }
    tenant = "globex" if who == "gina" else "acme"
    request = pb.PutScheduleRequest(
        schedule=pb.Schedule(agent=agent, schedule=name, **fields), schedule_grant=f"{who}/{tenant}/{agent}"
    )
    return await stack.call(stack.schedules.PutSchedule, request, who)


async def _get(stack: Stack, name: str = "daily") -> Any:
    request = pb.GetScheduleRequest(agent="refund-desk", schedule=name)
    return (await stack.call(stack.schedules.GetSchedule, request)).schedule


async def _refused(call: Any) -> tuple[str, str | None]:
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.reason, caught.value.field


async def _make_due(stack: Stack, name: str = "daily", ago: str = "2 seconds", cron: str = "* * * * *") -> None:
    """As if it had been put with a due time that has come by now."""
    await stack.sql(
        "UPDATE schedule SET cron = $1, next_time = now() - $2::text::interval, wake_at = now() WHERE name = $3",
        cron,
        ago,
        name,
    )


async def _until(stack: Stack, outcome: str, name: str = "daily") -> Any:
    async with asyncio.timeout(30):
        while True:
            schedule = await _get(stack, name)
            if schedule.last_outcome == outcome:
                return schedule
            await asyncio.sleep(0.05)


async def test_a_schedule_is_put_read_replaced_and_deleted(stack: Stack) -> None:
    await stack.promote(SET)
    put = await _put(stack, cron="30 7 * * 1-5", time_zone="Europe/Berlin", labels={"team": "x"})
    assert put.created
    assert put.schedule.owner == "alice"
    assert put.schedule.HasField("next_time")
    assert put.schedule.overlap == pb.OVERLAP_POLICY_SKIP
    assert json.loads(put.schedule.input_json) == {"message": "by the clock"}
    again = await _put(stack, paused=True)
    assert not again.created
    assert not again.schedule.HasField("next_time")
    for name in ("b", "c"):
        await _put(stack, name)
    first = await stack.call(stack.schedules.ListSchedules, pb.ListSchedulesRequest(agent="refund-desk", page_size=2))
    rest = await stack.call(
        stack.schedules.ListSchedules,
        pb.ListSchedulesRequest(agent="refund-desk", page_size=2, page_token=first.next_page_token),
    )
    assert [one.schedule for one in [*first.schedules, *rest.schedules]] == ["b", "c", "daily"]
    delete = pb.DeleteScheduleRequest(agent="refund-desk", schedule="daily")
    await stack.call(stack.schedules.DeleteSchedule, delete)
    assert (await _refused(stack.call(stack.schedules.DeleteSchedule, delete)))[0] == "SCHEDULE_NOT_FOUND"
    assert (await _refused(_get(stack)))[0] == "SCHEDULE_NOT_FOUND"


async def test_a_wrong_schedule_names_the_field(stack: Stack) -> None:
    await stack.promote(SET)
    assert await _refused(_put(stack, cron="soon")) == ("SCHEDULE_INVALID", "cron")
    assert await _refused(_put(stack, time_zone="Mars/Olympus")) == ("SCHEDULE_INVALID", "time_zone")
    assert await _refused(_put(stack, "Not A Name")) == ("SCHEDULE_INVALID", "schedule")
    assert await _refused(_put(stack, catch_up=Duration(seconds=8 * 86400))) == ("SCHEDULE_INVALID", "catch_up")
    assert await _refused(_put(stack, input_json='{"message": 3}')) == ("INPUT_INVALID", "input.message")
    assert await _refused(_put(stack, priority=10)) == ("INVALID_ARGUMENT", "priority")
    assert await _refused(_put(stack, agent="nobody")) == ("AGENT_NOT_FOUND", None)
    assert await _refused(_put(stack, who="gina")) == ("AGENT_NOT_FOUND", None)
    assert await _refused(_put(stack, who="bob")) == ("POLICY_DENIED", None)


async def test_many_workers_start_one_run_for_a_due_time_in_the_owners_name(stack: Stack) -> None:
    await stack.promote(SET)
    await _put(stack, labels={"team": "x"}, priority=4)
    await _make_due(stack, cron="0 0 1 1 *", ago="0 seconds")
    await asyncio.gather(*(stack.worker(**QUICK) for _ in range(3)))
    schedule = await _until(stack, "STARTED")
    run = await stack.finish(schedule.last_run_id)
    assert (run.state, run.caller, run.schedule, run.priority) == (runs_pb2.RUN_STATE_SUCCEEDED, "alice", "daily", 4)
    assert json.loads(run.output_json) == {"a": "by the clock"}
    assert dict(run.labels) == {"team": "x"}
    assert len(await stack.sql("SELECT run_id FROM run")) == 1
    assert schedule.next_time.ToNanoseconds() > schedule.last_time.ToNanoseconds()
    started = (await stack.journal(run.run_id))[0]
    assert json.loads(started.data_json)["schedule"] == "daily"


async def test_what_overlaps_is_skipped_queued_or_takes_the_place_of_the_older(stack: Stack) -> None:
    await stack.worker(**QUICK)
    await stack.promote(GATE)
    policies = {"a": pb.OVERLAP_POLICY_SKIP, "b": pb.OVERLAP_POLICY_QUEUE, "c": pb.OVERLAP_POLICY_CANCEL_OLDER}
    first: dict[str, str] = {}
    for name, overlap in policies.items():
        await _put(stack, name, overlap=overlap)
        await _make_due(stack, name)
        first[name] = (await _until(stack, "STARTED", name)).last_run_id
        await stack.pending(first[name])
        await stack.sql("UPDATE schedule SET last_outcome = '' WHERE name = $1", name)
        await stack.sql("DELETE FROM schedule_firing WHERE name = $1", name)
        await _make_due(stack, name)
    skipped = await _until(stack, "SKIPPED", "a")
    assert first["a"] in skipped.last_message
    await _until(stack, "QUEUED", "b")
    replaced = await _until(stack, "STARTED", "c")
    assert (await stack.finish(first["c"])).state == runs_pb2.RUN_STATE_CANCELLED
    assert replaced.last_run_id != first["c"]
    await stack.decide(await stack.pending(first["b"]), "approve")
    await stack.finish(first["b"])
    assert (await _until(stack, "STARTED", "b")).last_run_id != first["b"]


async def test_only_the_newest_missed_time_is_made_up_for_and_only_within_the_window(stack: Stack) -> None:
    await stack.promote(SET)
    await _put(stack, "kept", catch_up=Duration(seconds=3600))
    await _make_due(stack, "kept", ago="3 days", cron="* * * * *")
    await _put(stack, "missed", catch_up=Duration(seconds=1))
    await _make_due(stack, "missed", ago="3 days", cron="0 0 1 1 *")
    await stack.worker(**QUICK)
    kept = await _until(stack, "STARTED", "kept")
    await _until(stack, "MISSED", "missed")
    await stack.finish(kept.last_run_id)
    assert len(await stack.sql("SELECT run_id FROM run WHERE schedule = 'kept'")) <= 2
    assert await stack.sql("SELECT run_id FROM run WHERE schedule = 'missed'") == []


async def test_a_disabled_owners_schedule_stops_with_the_reason_until_it_is_put_again(
    stack: Stack, world: World
) -> None:
    world.disabled = True
    await stack.promote(SET)
    await _put(stack)
    await _make_due(stack)
    await stack.worker(**QUICK)
    async with asyncio.timeout(30):
        while True:
            stopped = await _get(stack)
            if stopped.stop_reason:
                break
            await asyncio.sleep(0.05)
    assert "disabled" in stopped.stop_reason
    assert not stopped.HasField("next_time")
    assert await stack.sql("SELECT run_id FROM run") == []
    world.disabled = False
    assert not (await _put(stack)).schedule.stop_reason
    await _make_due(stack)
    await stack.finish((await _until(stack, "STARTED")).last_run_id)


async def test_a_start_that_is_refused_is_told_and_the_schedule_goes_on(stack: Stack) -> None:
    await stack.promote(SET)
    await _put(stack)
    await stack.promote(workflow("    - {id: a, set: 1}", properties="{message: {type: integer}}"))
    await _make_due(stack)
    await stack.worker(**QUICK)
    failed = await _until(stack, "FAILED")
    assert failed.last_message.startswith("INPUT_INVALID")
    assert failed.HasField("next_time")


async def test_a_schedule_that_is_seldom_due_has_its_grant_renewed_or_stops(stack: Stack, world: World) -> None:
    await stack.promote(SET)
    await _put(stack)
    await stack.sql("UPDATE schedule SET grant_time = now() - interval '8 days'")
    first = await stack.worker(**QUICK)
    async with asyncio.timeout(30):
        while True:
            (row,) = await stack.sql("SELECT grant_time > now() - interval '1 day' AS renewed FROM schedule")
            if row["renewed"]:
                break
            await asyncio.sleep(0.05)
    await first.stop()
    world.disabled = True
    await stack.sql("UPDATE schedule SET grant_time = now() - interval '8 days'")
    await stack.worker(**QUICK)
    async with asyncio.timeout(30):
        while True:
            schedule = await _get(stack)
            if schedule.stop_reason:
                break
            await asyncio.sleep(0.05)
    assert not schedule.HasField("next_time")


async def test_a_paused_schedule_starts_nothing(stack: Stack) -> None:
    await stack.promote(SET)
    await _put(stack, "paused", paused=True)
    await _put(stack, "active")
    await stack.worker(**QUICK)
    await _make_due(stack, "active")
    await stack.finish((await _until(stack, "STARTED", "active")).last_run_id)
    assert (await _get(stack, "paused")).last_outcome == ""
