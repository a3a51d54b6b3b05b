"""Replays: a finished run decides the same once more, and a journal that was tampered with does not."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, REFUND_DESK, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2 as pb
from slipway.tools.v1 import tools_pb2
from slipway_chassis.errors import SlipwayError
from slipway_orchestrator.core.events import decode
from slipway_orchestrator.expressions.evaluation import Evaluator
from slipway_orchestrator.expressions.sandbox import EvaluationProcess
from slipway_orchestrator.registry import stored_definition
from slipway_orchestrator.replay import Replay

PYTHON = "tool: {name: python, arguments: {code: x}}"
MANY = workflow(
    f"""    - {{id: list, set: [1, 2, 3, 4, 5]}}
    - {{id: each, map: {{over: "${{steps.list.output}}", as: item, concurrency: 2, step: {{id: one, {PYTHON}}}}}}}
    - parallel:
        - {{id: left, set: l}}
        - {{id: right, on_error: continue, tool: {{name: ledger.post, arguments: {{amount: 7}}}}}}
    - branch:
        - {{when: "size(steps.each.output) > 9", steps: [{{id: never, set: 1}}]}}
        - {{else: true, steps: [{{id: always, set: "${{steps.right.output}}"}}]}}
    - {{id: nap, wait: {{for: 200ms}}}}
    - {{id: skipped, when: "false", set: 1}}
    - {{id: told, wait: {{signal: go}}}}
    - {{id: gate, approval: {{show: x, approvers: [role:refund-approver], quorum: 2}}}}""",
    "{n: '${size(steps.each.output)}', right: '${steps.right.output}', told: '${steps.told.output.payload}'}",
    limits=LIMITS.replace("repeats: 3", "repeats: 30"),
)


async def _replay(stack: Stack, run_id: str, who: str = "alice") -> Any:
    return await stack.call(stack.runs.ReplayRun, pb.ReplayRunRequest(run_id=run_id), who)


async def _same(stack: Stack, run_id: str) -> None:
    run = await stack.get(run_id)
    answer = await _replay(stack, run_id)
    assert (answer.same, answer.events) == (True, run.last_seq), answer.difference


async def _refused(call: Any) -> str:
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.reason


async def test_a_run_through_every_kind_of_step_decides_the_same(stack: Stack, world: World) -> None:
    failing = {"left": 1}

    async def flaky(name: str, arguments: Any, attempt: int) -> Any:
        if name == "ledger.post":
            return tools_pb2.ToolError(code="EXIT_STATUS", message="status 1")
        if failing["left"]:
            failing["left"] -= 1
            return tools_pb2.ToolError(code="TIMEOUT", message="slow", retryable=True)
        return {"refund": 120}

    world.tool = flaky
    retried = MANY.replace("step: {id: one,", "step: {id: one, retry: {attempts: 3, backoff: 100ms},")
    await stack.worker()
    await stack.promote(retried)
    run_id = await stack.begin()
    await stack.call(stack.runs.SignalRun, pb.SignalRunRequest(run_id=run_id, name="go", payload_json="3"))
    approval = await _gate(stack, run_id)
    await stack.decide(approval, "approve", "bob")
    await stack.decide(approval, "approve", "frank")
    run = await stack.finish(run_id)
    assert run.state == pb.RUN_STATE_SUCCEEDED, run.error
    effects = dict(world.effects)
    await _same(stack, run_id)
    assert world.effects == effects


async def _gate(stack: Stack, run_id: str) -> Any:
    asked = (await stack.watch(run_id, until="approval.requested"))[-1]
    request = pb.GetApprovalRequest(approval_id=json.loads(asked.data_json)["approval_id"])
    return (await stack.call(stack.runs.GetApproval, request, "bob")).approval


async def test_gates_edits_and_failures_decide_the_same(stack: Stack) -> None:
    await stack.worker()
    await stack.promote(REFUND_DESK)
    for decision in ("approve", "reject", "respond"):
        run_id = await stack.begin()
        more = {"message": "because"} if decision == "reject" else {}
        if decision == "respond":
            more = {"arguments_json": '{"posted": 1}'}
        await stack.decide(await stack.pending(run_id), decision, **more)
        await stack.finish(run_id)
        await _same(stack, run_id)
    cancelled = await stack.begin()
    await stack.pending(cancelled)
    await stack.call(stack.runs.CancelRun, pb.CancelRunRequest(run_id=cancelled))
    await stack.finish(cancelled)
    await _same(stack, cancelled)


async def test_limits_pauses_and_forks_decide_the_same(stack: Stack) -> None:
    await stack.worker()
    limits = LIMITS.replace("steps: 40", "steps: 2").replace("on_limit: fail", "on_limit: pause")
    steps = "\n".join(f"    - {{id: s{n}, set: {n}}}" for n in range(4))
    await stack.promote(workflow(steps, limits=limits))
    run_id = await stack.begin()
    await stack.watch(run_id, until="run.waiting")
    raised = pb.RaiseRunLimitsRequest(run_id=run_id, limits=pb.RunLimits(steps=9))
    await stack.call(stack.runs.RaiseRunLimits, raised)
    await stack.finish(run_id)
    await _same(stack, run_id)
    fork = pb.ForkRunRequest(run_id=run_id, seq=3, run_grant="alice/acme/refund-desk")
    forked = (await stack.call(stack.runs.ForkRun, fork)).run.run_id
    await stack.watch(forked, until="run.waiting")
    await stack.call(stack.runs.RaiseRunLimits, pb.RaiseRunLimitsRequest(run_id=forked, limits=pb.RunLimits(steps=9)))
    await stack.finish(forked)
    await _same(stack, forked)


async def test_the_first_decision_that_differs_is_told(stack: Stack) -> None:
    await stack.worker()
    steps = "    - {id: a, set: '${input.message}'}\n    - {id: b, set: '${steps.a.output}!'}"
    await stack.promote(workflow(steps, "{b: '${steps.b.output}'}"))
    first = await stack.finish(await stack.begin({"message": "x"}))
    other = await stack.finish(await stack.begin({"message": "y"}))
    # As if the run had come to what the other one did.
    await stack.sql(
        "UPDATE run_event SET data = (SELECT data FROM run_event WHERE run_id = $2 AND seq = 5)"
        " WHERE run_id = $1 AND seq = 5",
        first.run_id,
        other.run_id,
    )
    answer = await _replay(stack, first.run_id)
    assert (answer.same, answer.difference.seq, answer.difference.step_id) == (False, 5, "b")
    assert json.loads(answer.difference.journalled_json)["data"]["output"] == "y!"
    assert json.loads(answer.difference.decided_json)["data"]["output"] == "x!"
    assert "step b" in answer.difference.message


async def test_only_what_has_ended_is_replayed(stack: Stack) -> None:
    await stack.promote(REFUND_DESK)
    run_id = await stack.begin()
    assert await _refused(_replay(stack, run_id)) == "RUN_NOT_ENDED"
    assert await _refused(_replay(stack, "run_nonsense")) == "RUN_NOT_FOUND"
    assert await _refused(_replay(stack, run_id, "gina")) == "RUN_NOT_FOUND"
    assert await _refused(_replay(stack, run_id, "erin")) == "POLICY_DENIED"


RECORDED = {path.stem: json.loads(path.read_text()) for path in (Path(__file__).parent / "journals").glob("*.json")}


@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_journals_of_the_first_release_decide_the_same(name: str) -> None:
    recorded = RECORDED[name]
    definition = stored_definition(json.dumps(recorded["definition"]))
    rows = [
        (row["seq"], datetime.fromisoformat(row["time"]), event)
        for row in recorded["events"]
        if (event := decode(row["kind"], row["step_id"], row["data"])) is not None
    ]
    process = EvaluationProcess()
    try:
        found = await Replay(definition, Evaluator(process), related=False).run(rows)
    finally:
        await process.close()
    assert found is None, found
