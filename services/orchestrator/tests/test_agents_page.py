"""The examples of docs/agents.md, as they stand: each is registered, and runs to its end."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2
from slipway.tools.v1 import tools_pb2
from slipway_orchestrator.core.definition import STEP_TYPES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "agents.md"
HELPER = workflow("    - {id: a, set: '${input.n}'}", "{r: '${steps.a.output}'}", name="helper", properties="{n: {}}")
OUTPUTS: dict[str, Any] = {
    "total": 12,
    "first": 2,
    "verdict": "badly",
    "told": {"r": 7},
    "sum": 5,
    "cleanup": "EXIT_STATUS",
    "risky": {"posted": 1},
    "greeting": {"text": "About x", "words": 3},
}
"""What some steps of the examples come to."""


def _blocks() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_every_type_of_step_of_a_workflow_has_an_example() -> None:
    text = "\n".join(_blocks())
    types = {name for call, name in STEP_TYPES.items() if name not in ("summary", "history", "remember")}
    assert {name for name in types if re.search(rf"\b{name}:", text)} == types


@pytest.mark.timeout(240)
async def test_the_pages_examples_run(stack: Stack, world: World) -> None:
    async def tool(name: str, arguments: Any, attempt: int) -> Any:
        if arguments.get("amount") == 13:
            return tools_pb2.ToolError(code="EXIT_STATUS", message="status 1")
        return {"refund": 120} if name == "python" else {"posted": arguments["amount"]}

    world.tool = tool
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="60")
    await stack.promote(HELPER, name="helper")
    whole, *examples = [block for block in _blocks() if block.startswith(("apiVersion", "- "))]
    await stack.promote(whole, name="orders")
    run = await _ended(stack, await stack.begin({"message": "x"}, name="orders"))
    assert json.loads(run.output_json) == {"booked": [{"posted": 10}, {"posted": 20}]}
    seen: set[str] = set()
    for block in examples:
        steps = "\n".join(f"    {line}" for line in block.splitlines())
        await stack.promote(workflow(steps, limits=LIMITS.replace("tool_errors: 3", "tool_errors: 9")))
        run = await _ended(stack, await stack.begin({"message": "x"}))
        assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, (block, run.error)
        for event in await stack.journal(run.run_id):
            if event.kind == "step.completed" and event.step_id in OUTPUTS:
                assert json.loads(event.data_json)["output"] == OUTPUTS[event.step_id], event.step_id
                seen.add(event.step_id)
    assert seen == set(OUTPUTS)


async def _ended(stack: Stack, run_id: str) -> Any:
    """The run when it has ended; somebody approves, answers for what failed, and sends the signal meanwhile."""
    after = 0
    while True:
        events = await stack.watch(run_id, after=after, until="run.waiting")
        after = events[-1].seq
        if events[-1].kind != "run.waiting":
            return await stack.get(run_id)
        state = json.loads(events[-1].data_json)["state"]
        if state == "WAITING_SIGNAL":
            request = runs_pb2.SignalRunRequest(run_id=run_id, name="paid-x", payload_json="5")
            await stack.call(stack.runs.SignalRun, request)
        for approval_id in (await stack.get(run_id)).pending_approval_ids:
            asked = runs_pb2.GetApprovalRequest(approval_id=approval_id)
            approval = (await stack.call(stack.runs.GetApproval, asked, "dave")).approval
            if approval.escalation:
                await stack.decide(approval, "respond", "dave", arguments_json='{"posted": 1}')
            else:
                await stack.decide(approval, "approve", "bob")
