"""What steps do when something goes wrong, and what bounds a run."""

import asyncio
import json
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, workflow
from orchestrator_testing.executors import EffectUncertain, World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2
from slipway.tools.v1 import tools_pb2
from slipway_chassis.errors import FieldViolation, InvalidArgument, SlipwayError, Unavailable

PYTHON = "tool: {name: python, arguments: {code: x}}"
ASK = """
    - {id: policy, retrieve: {collection: handbook, query: refund}}
    - {id: answer, model: {task: t, prompt: "${input.message}", context: "${steps.policy.output.passages}"}}"""


@pytest.fixture
async def busy(stack: Stack) -> Stack:
    """A stack with a worker that sweeps rarely: what it must do sooner it knows by itself."""
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="60")
    return stack


async def _run(stack: Stack, definition: str, value: Any = None) -> Any:
    await stack.promote(definition)
    return await stack.finish(await stack.begin(value))


async def test_a_failed_attempt_is_retried_as_declared_and_the_run_parks_meanwhile(busy: Stack, world: World) -> None:
    async def flaky(name: str, arguments: Any, attempt: int) -> Any:
        if attempt < 3:
            return tools_pb2.ToolError(code="TIMEOUT", message="slow", retryable=False)
        return {"refund": attempt}

    world.tool = flaky
    retry = "retry: {attempts: 3, backoff: 100ms, on: [TIMEOUT]}"
    run = await _run(busy, workflow(f"    - {{id: a, {PYTHON}, {retry}}}", "{n: '${steps.a.output.refund}'}"))
    assert json.loads(run.output_json) == {"n": 3}
    kinds = [event.kind for event in await busy.journal(run.run_id)]
    assert kinds == [
        "run.started",
        *["step.started", "step.retrying", "run.waiting"] * 2,
        "step.started",
        "step.completed",
        "run.succeeded",
    ]
    assert world.effects[f"{run.run_id}/a/1"] == 3


async def test_a_code_that_is_not_declared_is_not_retried(busy: Stack, world: World) -> None:
    async def broken(name: str, arguments: Any, attempt: int) -> Any:
        return tools_pb2.ToolError(code="EXIT_STATUS", message="status 1", retryable=True)

    world.tool = broken
    retry = "retry: {attempts: 3, backoff: 100ms, on: [TIMEOUT]}"
    run = await _run(busy, workflow(f"    - {{id: a, {PYTHON}, {retry}}}"))
    assert (run.state, run.error.code, run.error.message, run.error.step) == (9, "EXIT_STATUS", "status 1", "a")
    assert world.effects[f"{run.run_id}/a/1"] == 1


async def test_an_error_that_the_definition_lets_pass_leaves_null(busy: Stack, world: World) -> None:
    async def broken(name: str, arguments: Any, attempt: int) -> Any:
        return tools_pb2.ToolError(code="EXIT_STATUS", message="status 1")

    world.tool = broken
    definition = workflow(f"    - {{id: a, on_error: continue, {PYTHON}}}", "{a: '${steps.a.output}'}")
    run = await _run(busy, definition)
    assert json.loads(run.output_json) == {"a": None}


async def test_a_refusal_of_an_executor_tells_the_run_which_value_was_wrong(busy: Stack, world: World) -> None:
    async def refuse(name: str, arguments: Any, attempt: int) -> Any:
        raise InvalidArgument("the files do not fit", violations=[FieldViolation("/files/a.csv", "is no file id")])

    world.tool = refuse
    run = await _run(busy, workflow(f"    - {{id: a, {PYTHON}}}"))
    assert run.error.message == "the files do not fit (/files/a.csv: is no file id)"


async def test_an_executor_that_is_away_for_a_moment_fails_nothing(busy: Stack, world: World) -> None:
    async def away(name: str, arguments: Any, attempt: int) -> Any:
        if attempt == 1:
            raise Unavailable("restarting")
        return {"refund": 1}

    world.tool = away
    run = await _run(busy, workflow(f"    - {{id: a, {PYTHON}}}"))
    assert run.state == 8


async def test_a_step_waits_while_the_registry_of_its_tool_is_away(busy: Stack, world: World) -> None:
    await busy.promote(workflow(f"    - {{id: a, {PYTHON}}}"))
    world.away.add("tools")
    run_id = await busy.begin()
    await busy.watch(run_id, until="run.waiting")
    world.away.clear()
    assert (await busy.finish(run_id)).state == 8


async def test_an_effect_in_doubt_is_not_repeated_but_goes_to_a_person(busy: Stack, world: World) -> None:
    async def doubtful(name: str, arguments: Any, attempt: int) -> Any:
        raise EffectUncertain("nobody knows")

    world.tool = doubtful
    retry = "retry: {attempts: 5, backoff: 100ms, on: [ABORTED]}"
    steps = f"    - {{id: a, on_error: continue, {PYTHON}, {retry}}}"
    await busy.promote(workflow(steps, "{a: '${steps.a.output.posted}'}"))
    run_id = await busy.begin()
    await busy.watch(run_id, until="run.waiting")
    (approval_id,) = (await busy.get(run_id)).pending_approval_ids
    request = runs_pb2.GetApprovalRequest(approval_id=approval_id)
    approval = (await busy.call(busy.runs.GetApproval, request, "dave")).approval
    assert json.loads(approval.arguments_json) == {"code": "x"}
    assert world.calls[f"{run_id}/a/1"] == 1
    await busy.decide(approval, "respond", "dave", arguments_json='{"posted": 7}')
    assert json.loads((await busy.finish(run_id)).output_json) == {"a": 7}
    assert "step.uncertain" in [event.kind for event in await busy.journal(run_id)]
    assert world.calls[f"{run_id}/a/1"] == 1


async def test_a_gated_effect_in_doubt_goes_to_its_approvers(busy: Stack, world: World) -> None:
    async def doubtful(name: str, arguments: Any, attempt: int) -> Any:
        if attempt == 1:
            raise EffectUncertain("nobody knows")
        return {"posted": attempt}

    world.tool = doubtful
    gate = "approval: {approvers: [role:refund-approver]}"
    await busy.promote(workflow(f"    - {{id: a, {PYTHON}, {gate}}}", "{a: '${steps.a.output.posted}'}"))
    run_id = await busy.begin()
    first = await busy.pending(run_id)
    parked = (await busy.journal(run_id))[-1].seq
    await busy.decide(first, "approve")
    await busy.watch(run_id, after=parked, until="run.waiting")
    (approval_id,) = (await busy.get(run_id)).pending_approval_ids
    request = runs_pb2.GetApprovalRequest(approval_id=approval_id)
    second = (await busy.call(busy.runs.GetApproval, request, "bob")).approval
    assert world.calls[f"{run_id}/a/1"] == 1
    await busy.decide(second, "approve")
    assert json.loads((await busy.finish(run_id)).output_json) == {"a": 2}


async def test_a_useless_answer_is_asked_for_anew_when_the_step_says_so(busy: Stack, world: World) -> None:
    world.answer = ""
    retry = "retry: {attempts: 2, backoff: 100ms, on: [MODEL_EMPTY_ANSWER]}"
    await busy.promote(
        workflow(f"    - {{id: a, model: {{task: t, prompt: x}}, {retry}}}", "{a: '${steps.a.output.text}'}")
    )
    run_id = await busy.begin()
    await busy.watch(run_id, until="step.retrying")
    world.answer = "Now there is one."
    run = await busy.finish(run_id)
    assert json.loads(run.output_json) == {"a": "Now there is one."}
    assert world.effects == {f"{run_id}/a/1": 1, f"{run_id}/a/2": 1}
    assert run.usage.output_tokens == 10


async def test_a_revoked_grant_ends_the_run_whatever_the_step_lets_pass(busy: Stack, world: World) -> None:
    await busy.promote(workflow("    - {id: a, on_error: continue, retrieve: {collection: handbook, query: x}}"))
    world.revoked = True
    run = await busy.finish(await busy.begin())
    assert (run.state, run.error.code) == (9, "GRANT_REVOKED")
    assert not world.calls


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("", "MODEL_EMPTY_ANSWER"),
        ("   ", "MODEL_EMPTY_ANSWER"),
        ("?!?!?!", "MODEL_ANSWER_UNUSABLE"),
        ("the the " * 30, "MODEL_ANSWER_UNUSABLE"),
    ],
)
async def test_an_answer_that_is_empty_or_rubbish_fails_the_step(
    busy: Stack, world: World, answer: str, code: str
) -> None:
    world.answer = answer
    run = await _run(busy, workflow(ASK))
    assert (run.state, run.error.code, run.error.step) == (9, code, "answer")
    assert run.usage.output_tokens == 5


@pytest.mark.parametrize(
    "answer", ["Penguins live in Antarctica and like fish.", "A refund within 90 days is paid in full."]
)
async def test_an_answer_that_no_passage_supports_cites_nothing_and_says_so(
    busy: Stack, world: World, answer: str
) -> None:
    world.answer = answer
    run = await _run(
        busy, workflow(ASK, "{g: '${steps.answer.output.grounded}', c: '${steps.answer.output.citations}'}")
    )
    assert json.loads(run.output_json) == {"g": False, "c": []}


async def test_a_grounded_answer_cites_the_passage_with_its_place(busy: Stack, world: World) -> None:
    run = await _run(busy, workflow(ASK, "{a: '${steps.answer.output}'}"), {"message": "May I?"})
    (chat,) = world.chats
    assert "A refund within 30 days is paid in full." in chat.messages[-1].content
    assert chat.messages[-1].content.endswith("May I?")
    assert (chat.task, chat.effect.key) == ("t", f"{run.run_id}/answer/1")
    answer = json.loads(run.output_json)["a"]
    assert (answer["text"], answer["grounded"]) == (world.answer, True)
    (citation,) = answer["citations"]
    assert citation == {
        "passage_id": "p1",
        "document": "policy.md",
        "title": "Policy",
        "headings": ["Refunds"],
        "page": 2,
        "quote": "A refund within 30 days is paid in full.",
    }


async def test_a_value_keeps_its_type_and_a_large_one_is_stored_once(busy: Stack, world: World) -> None:
    large = "x" * 100_000
    steps = "    - {id: a, set: '${input.message}'}\n    - {id: b, set: '${steps.a.output}'}"
    run = await _run(busy, workflow(steps, "{b: '${steps.b.output}', t: 'n=${1 + 1} ${null}'}"), {"message": large})
    assert json.loads(run.output_json) == {"b": large, "t": "n=2 null"}
    rows = await busy.sql("SELECT bytes FROM run_payload")
    assert sorted(row["bytes"] for row in rows)[0] == 100_002
    assert len(rows) == 3  # the input, the value of both steps, the run's output
    events = await busy.journal(run.run_id)
    assert [json.loads(e.data_json)["output"] for e in events if e.kind == "step.completed"] == [large, large]


async def test_wrong_arguments_never_reach_the_tool(busy: Stack, world: World) -> None:
    steps = "    - {id: a, tool: {name: ledger.post, arguments: {amount: '${input.any}'}}}"
    run = await _run(busy, workflow(steps, properties="{any: {}}"), {"any": "lots"})
    assert (run.error.code, run.error.step) == ("INVALID_ARGUMENTS", "a")
    assert not world.calls


async def test_an_expression_that_would_hold_the_worker_is_stopped(busy: Stack) -> None:
    steps = "    - {id: a, set: '${input.list.map(x, x + 1)}'}"
    run = await _run(busy, workflow(steps, properties="{list: {type: array}}"), {"list": [7] * 60_000})
    assert run.error.code == "EXPRESSION_FAILED"
    assert "took more than" in run.error.message


async def test_a_comprehension_over_little_is_evaluated(busy: Stack) -> None:
    steps = "    - {id: a, set: '${input.list.filter(x, x > 2)}'}"
    definition = workflow(steps, "{a: '${steps.a.output}'}", properties="{list: {type: array, items: {type: integer}}}")
    run = await _run(busy, definition, {"list": [1, 2, 3, 4]})
    assert json.loads(run.output_json) == {"a": [3, 4]}


async def test_an_output_that_does_not_fit_fails_the_run(busy: Stack) -> None:
    run = await _run(
        busy,
        workflow(
            "    - {id: a, set: 1}",
            "{n: '${steps.a.output}'}",
            output="{type: object, properties: {n: {type: string}}}",
        ),
    )
    assert run.error.code == "OUTPUT_INVALID"
    assert "output.n" in run.error.message


async def test_the_same_call_once_too_often_fails_the_run(busy: Stack) -> None:
    steps = "\n".join(f"    - {{id: s{n}, {PYTHON}}}" for n in range(3))
    run = await _run(busy, workflow(steps, limits=LIMITS.replace("repeats: 3", "repeats: 2")))
    assert (run.error.code, run.error.step) == ("LIMIT_REPEATS", "s2")


async def test_a_run_that_waits_longer_than_its_wall_time_fails(busy: Stack) -> None:
    gate = "    - {id: a, approval: {show: x, approvers: [role:refund-approver]}}"
    limits = LIMITS.replace("wall_time: 2d", "wall_time: 500ms")
    run = await _run(busy, workflow(gate, limits=limits))
    assert run.error.code in ("LIMIT_WALL_TIME", "APPROVAL_EXPIRED")
    assert not run.pending_approval_ids


async def test_cancelling_stops_a_step_under_way(busy: Stack, world: World) -> None:
    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        world.held.set()
        await world.hold.wait()
        return {}

    world.tool = slow
    await busy.promote(workflow(f"    - {{id: a, {PYTHON}}}"))
    run_id = await busy.begin()
    await asyncio.wait_for(world.held.wait(), 20)
    await busy.call(busy.runs.CancelRun, runs_pb2.CancelRunRequest(run_id=run_id, reason="changed my mind"))
    run = await busy.finish(run_id)
    world.hold.set()
    assert run.state == 10
    last = (await busy.journal(run_id))[-1]
    assert json.loads(last.data_json) == {"cancelled_by": "alice", "reason": "changed my mind"}
    with pytest.raises(SlipwayError) as caught:
        await busy.call(busy.runs.CancelRun, runs_pb2.CancelRunRequest(run_id=run_id))
    assert caught.value.reason == "RUN_ENDED"


async def test_cancelling_a_parked_run_voids_its_approval(busy: Stack) -> None:
    await busy.promote(workflow("    - {id: a, approval: {show: x, approvers: [role:refund-approver]}}"))
    run_id = await busy.begin()
    approval = await busy.pending(run_id)
    await busy.call(busy.runs.CancelRun, runs_pb2.CancelRunRequest(run_id=run_id))
    assert (await busy.finish(run_id)).state == 10
    request = runs_pb2.GetApprovalRequest(approval_id=approval.approval_id)
    voided = (await busy.call(busy.runs.GetApproval, request, "bob")).approval
    assert voided.state == runs_pb2.APPROVAL_STATE_CANCELLED
