"""Steps within steps: what runs at the same time, what joins, what fails, and what a run waits for."""

import asyncio
import json
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2
from slipway.tools.v1 import tools_pb2

BROKEN = tools_pb2.ToolError(code="EXIT_STATUS", message="status 1")


def post(name: str, amount: str = "1", more: str = "") -> str:
    return f"{{id: {name}, tool: {{name: ledger.post, arguments: {{amount: {amount}}}}}{more}}}"


@pytest.fixture
async def busy(stack: Stack) -> Stack:
    """A stack with a worker that sweeps rarely: what it must do sooner it knows by itself."""
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="60")
    return stack


async def _run(stack: Stack, definition: str, value: Any = None) -> Any:
    await stack.promote(definition)
    return await stack.finish(await stack.begin(value))


def _kinds(events: list[Any], step_id: str) -> list[str]:
    return [event.kind for event in events if event.step_id == step_id]


async def test_a_map_keeps_its_order_and_its_bound_and_effects_have_keys_of_their_own(
    busy: Stack, world: World
) -> None:
    now, most = 0, 0

    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02 * (5 - arguments["amount"] % 5))  # the later ones end first
        now -= 1
        return {"posted": arguments["amount"]}

    world.tool = slow
    steps = f"""
    - map:
        over: "${{input.list}}"
        as: amount
        concurrency: 3
        steps:
          - {{id: skipped, when: "index == 2", set: "${{amount}}"}}
          - branch:
              - {{when: "amount > 7", steps: [{{id: much, set: "${{amount}}"}}]}}
              - {{else: true, steps: [{post("paid", '"${amount}"')}]}}
          - {{id: last, set: {{n: "${{index}}", s: "${{steps.skipped.output}}", p: "${{steps.paid.output}}"}}}}
    - {{id: after, set: "${{steps.map_1.output}}"}}"""
    run = await _run(
        busy,
        workflow(steps, "{r: '${steps.after.output}'}", properties="{list: {type: array, items: {type: integer}}}"),
        {"list": [1, 2, 3, 9, 5, 6]},
    )
    assert run.state == 8, run.error
    assert json.loads(run.output_json)["r"] == [
        {"n": 0, "s": None, "p": {"posted": 1}},
        {"n": 1, "s": None, "p": {"posted": 2}},
        {"n": 2, "s": 3, "p": {"posted": 3}},
        {"n": 3, "s": None, "p": None},
        {"n": 4, "s": None, "p": {"posted": 5}},
        {"n": 5, "s": None, "p": {"posted": 6}},
    ]
    assert most == 3
    assert world.effects == {f"{run.run_id}/paid[{n}]/1": 1 for n in (0, 1, 2, 4, 5)}
    events = await busy.journal(run.run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert _kinds(events, "map_1") == ["step.started", "step.completed"]
    assert _kinds(events, "skipped[0]") == ["step.skipped"]
    taken = [
        json.loads(e.data_json)["output"] for e in events if e.step_id == "branch_1[3]" and e.kind == "step.completed"
    ]
    assert taken == [{"taken": 0}]


async def test_maps_stand_within_maps_and_parallel_steps_have_an_output_by_id(busy: Stack) -> None:
    steps = """
    - id: both
      parallel:
        - {id: one, set: 1}
        - id: rows
          map:
            over: [[1, 2], [3]]
            as: row
            step: {map: {over: "${row}", as: cell, step: {id: out, set: "${row[0] * 100 + cell * 10 + index}"}}}
        - {id: idle, wait: {for: 10ms}}"""
    run = await _run(busy, workflow(steps, "{b: '${steps.both.output}'}"))
    assert json.loads(run.output_json) == {"b": {"one": 1, "rows": [[110, 121], [330]], "idle": None}}
    assert "out[0][1]" in {event.step_id for event in await busy.journal(run.run_id)}


@pytest.mark.parametrize(
    ("over", "code"), [("${input.list}", "MAP_TOO_LARGE"), ("${input.list[0]}", "EXPRESSION_FAILED")]
)
async def test_a_map_over_too_much_or_over_no_list_is_an_error_of_the_step(busy: Stack, over: str, code: str) -> None:
    steps = f"""
    - {{id: m, on_error: told, map: {{over: "{over}", step: {{id: a, set: 1}}}}}}
    - {{id: not_run, set: 2}}
    - {{id: told, set: "${{steps.m.error.code}}"}}"""
    definition = workflow(steps, "{c: '${steps.told.output}', n: '${steps.not_run.output}'}", properties="{list: {}}")
    run = await _run(busy, definition, {"list": [0] * 10_001})
    assert json.loads(run.output_json) == {"c": code, "n": None}


async def test_what_was_begun_beside_a_failure_is_finished_and_nothing_new_begins(busy: Stack, world: World) -> None:
    async def tool(name: str, arguments: Any, attempt: int) -> Any:
        if arguments["amount"] == 1:
            await asyncio.wait_for(world.held.wait(), 20)
            return BROKEN
        world.held.set()
        await asyncio.wait_for(world.hold.wait(), 20)
        return {"posted": 2}

    world.tool = tool
    steps = f"""
    - parallel:
        - {post("bad", "1")}
        - branch: [{{else: true, steps: [{post("good", "2")}, {post("never", "3")}]}}]
        - {{id: gate, approval: {{show: x, approvers: [role:refund-approver]}}}}"""
    await busy.promote(workflow(steps))
    run_id = await busy.begin()
    await busy.watch(run_id, until="step.failed")
    world.hold.set()
    run = await busy.finish(run_id)
    assert (run.state, run.error.code, run.error.step) == (9, "EXIT_STATUS", "bad")
    assert not run.pending_approval_ids
    events = await busy.journal(run_id)
    assert _kinds(events, "good") == ["step.started", "step.completed"]
    assert _kinds(events, "never") == []
    assert _kinds(events, "parallel_1") == ["step.started", "step.failed"]


async def test_a_failure_that_is_let_pass_voids_the_questions_beside_it(busy: Stack, world: World) -> None:
    async def broken(name: str, arguments: Any, attempt: int) -> Any:
        await asyncio.wait_for(world.hold.wait(), 20)
        return BROKEN

    world.tool = broken
    steps = f"""
    - id: p
      on_error: continue
      parallel:
        - {post("bad")}
        - {{id: gate, approval: {{show: x, approvers: [role:refund-approver]}}}}"""
    await busy.promote(workflow(steps, "{p: '${steps.p.output}', c: '${steps.p.error.code}'}"))
    run_id = await busy.begin()
    asked = await busy.watch(run_id, until="approval.requested")
    world.hold.set()
    run = await busy.finish(run_id)
    assert json.loads(run.output_json) == {"p": None, "c": "EXIT_STATUS"}
    request = runs_pb2.GetApprovalRequest(approval_id=json.loads(asked[-1].data_json)["approval_id"])
    voided = (await busy.call(busy.runs.GetApproval, request, "bob")).approval
    assert voided.state == runs_pb2.APPROVAL_STATE_CANCELLED


async def test_a_person_decides_what_becomes_of_a_step_that_escalates(busy: Stack, world: World) -> None:
    async def flaky(name: str, arguments: Any, attempt: int) -> Any:
        return {"posted": attempt} if arguments["amount"] == 1 and attempt == 2 else BROKEN

    world.tool = flaky
    retry = ", on_error: escalate, retry: {attempts: 1, on: [TIMEOUT]}"
    steps = f"    - {post('a', more=retry)}\n    - {post('b', '2', more=retry)}\n    - {post('c', '3', more=retry)}"
    await busy.promote(workflow(steps, "{a: '${steps.a.output.posted}', b: '${steps.b.output.posted}'}"))
    run_id = await busy.begin()

    async def asked(after: int) -> Any:
        events = await busy.watch(run_id, after=after, until="run.waiting")
        (approval_id,) = (await busy.get(run_id)).pending_approval_ids
        request = runs_pb2.GetApprovalRequest(approval_id=approval_id)
        return events[-1].seq, (await busy.call(busy.runs.GetApproval, request, "dave")).approval

    seq, approval = await asked(0)
    assert json.loads(approval.arguments_json) == {"amount": 1}
    await busy.decide(approval, "approve", "dave")
    seq, approval = await asked(seq)
    assert approval.step_id == "b"
    await busy.decide(approval, "respond", "dave", arguments_json='{"posted": 20}')
    _, approval = await asked(seq)
    await busy.decide(approval, "reject", "dave", message="enough")
    run = await busy.finish(run_id)
    assert (run.state, run.error.code, run.error.step) == (9, "EXIT_STATUS", "c")
    assert "enough" in run.error.message
    assert world.effects[f"{run_id}/a/1"] == 2


async def test_a_run_waits_for_signals_and_takes_those_that_came_before(busy: Stack) -> None:
    steps = """
    - {id: first, wait: {signal: "go-${input.message}"}}
    - {id: second, wait: {signal: go-x}}
    - {id: late, on_error: continue, wait: {signal: never, expires: 100ms}}"""
    result = "{a: '${steps.first.output.payload}', b: '${steps.second.output}', c: '${steps.late.error.code}'}"
    await busy.promote(workflow(steps, result))
    run_id = await busy.begin({"message": "x"})
    await busy.watch(run_id, until="run.waiting")
    assert (await busy.get(run_id)).state == runs_pb2.RUN_STATE_WAITING_SIGNAL
    for payload in ("1", '{"n": 2}'):
        request = runs_pb2.SignalRunRequest(run_id=run_id, name="go-x", payload_json=payload)
        await busy.call(busy.runs.SignalRun, request)
    run = await busy.finish(run_id)
    assert json.loads(run.output_json) == {
        "a": 1,
        "b": {"signal": "go-x", "payload": {"n": 2}, "by": "alice"},
        "c": "SIGNAL_EXPIRED",
    }


async def test_a_run_waits_until_a_time_and_holds_no_worker(busy: Stack) -> None:
    steps = """
    - {id: a, wait: {for: 300ms}}
    - {id: b, wait: {until: "${input.message}"}}"""
    await busy.promote(workflow(steps))
    run_id = await busy.begin({"message": "2020-01-01T00:00:00Z"})
    await busy.watch(run_id, until="run.waiting")
    run = await busy.finish(run_id)
    assert run.state == 8
    kinds = [event.kind for event in await busy.journal(run_id)]
    assert kinds.count("run.waiting") == 1  # the second time is over already


async def test_somebody_is_reminded_while_nobody_decides(busy: Stack) -> None:
    gate = "approval: {show: x, approvers: [role:refund-approver], remind: 200ms, expires: 30s}"
    await busy.promote(workflow(f"    - {{id: a, {gate}}}"))
    run_id = await busy.begin()
    events = await busy.watch(run_id, until="approval.reminded")
    assert json.loads(events[-1].data_json)["count"] == 1
    (approval_id,) = (await busy.get(run_id)).pending_approval_ids
    request = runs_pb2.GetApprovalRequest(approval_id=approval_id)
    await busy.decide((await busy.call(busy.runs.GetApproval, request, "bob")).approval, "approve")
    assert (await busy.finish(run_id)).state == 8


async def test_a_run_that_is_paused_by_a_limit_goes_on_when_it_is_raised(busy: Stack, world: World) -> None:
    limits = LIMITS.replace("on_limit: fail", "on_limit: pause").replace("repeats: 3", "repeats: 1")
    steps = f"    - {post('a')}\n    - {post('b')}"
    await busy.promote(workflow(steps, "{b: '${steps.b.output.posted}'}", limits=limits))
    run_id = await busy.begin()
    events = await busy.watch(run_id, until="run.paused")
    assert json.loads(events[-1].data_json)["code"] == "LIMIT_REPEATS"
    loop = json.loads(events[-2].data_json)
    assert (events[-2].kind, loop["pattern"]) == ("loop.detected", "REPEAT")
    assert loop["evidence"] == {"tool": "ledger.post", "arguments": {"amount": 1}, "times": 1}
    await busy.watch(run_id, after=events[-1].seq, until="run.waiting")
    raised = runs_pb2.RaiseRunLimitsRequest(run_id=run_id, limits=runs_pb2.RunLimits(repeats=2))
    await busy.call(busy.runs.RaiseRunLimits, raised, "dave")
    assert json.loads((await busy.finish(run_id)).output_json) == {"b": 1}


async def test_a_cycle_of_calls_that_tells_nothing_new_is_seen(busy: Stack) -> None:
    steps = f"""
    - map:
        over: [1, 2, 3]
        concurrency: 1
        steps: [{post("a", "1")}, {post("b", "2")}]"""
    more = "  loop_detection: {on: fail}"
    run = await _run(busy, workflow(steps, more=more))
    assert run.error.code == "LOOP_DETECTED"
    events = await busy.journal(run.run_id)
    (loop,) = [json.loads(event.data_json) for event in events if event.kind == "loop.detected"]
    assert loop["pattern"] == "CYCLE"
    assert loop["evidence"]["steps"] == ["a[0]", "b[0]", "a[1]", "b[1]"]


async def test_cancelling_reaches_a_tool_that_runs(busy: Stack, world: World, eventually: Any) -> None:
    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        world.held.set()
        await world.hold.wait()

    world.tool = slow
    await busy.promote(workflow(f"    - {post('a')}"))
    run_id = await busy.begin()
    await asyncio.wait_for(world.held.wait(), 20)
    await busy.call(busy.runs.CancelRun, runs_pb2.CancelRunRequest(run_id=run_id, reason="no"))
    run = await busy.finish(run_id)
    assert run.state == 10
    await eventually(lambda: f"{run_id}/a/1" in world.left, timeout=20)
    kinds = [event.kind for event in await busy.journal(run_id)]
    assert kinds[-3:] == ["cancel.requested", "step.failed", "run.cancelled"]
    world.hold.set()


async def test_a_run_that_is_woken_for_nothing_waits_on_without_a_word(busy: Stack, eventually: Any) -> None:
    await busy.promote(workflow("    - {id: a, approval: {show: x, approvers: [role:refund-approver]}}"))
    run_id = await busy.begin()
    approval = await busy.pending(run_id)
    before = await busy.journal(run_id)
    await busy.sql("UPDATE run SET state = 'QUEUED', wake_at = now() WHERE run_id = $1", run_id)
    nudge = await busy.begin()  # whoever is woken for another run takes this one as well

    async def parked_again() -> bool:
        rows = await busy.sql("SELECT state, lease_epoch FROM run WHERE run_id = $1", run_id)
        return rows[0]["state"] == "WAITING_APPROVAL" and rows[0]["lease_epoch"] > 1

    await eventually(parked_again, timeout=30)
    assert [event.seq for event in await busy.journal(run_id)] == [event.seq for event in before]
    await busy.decide(approval, "approve")
    assert (await busy.finish(run_id)).state == 8
    await busy.decide(await busy.pending(nudge), "approve")
