"""Several runs on one session: refused, queued, or the newer takes the place of the older."""

import asyncio
from typing import Any

from orchestrator_testing.definitions import workflow
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import SlipwayError

GATE = "    - {id: a, approval: {show: x, approvers: [role:refund-approver]}}"


def _agent(concurrency: str) -> str:
    return workflow(GATE, more=f"  session: {{concurrency: {concurrency}}}")


async def test_a_session_that_takes_one_run_refuses_another(stack: Stack) -> None:
    await stack.promote(_agent("refuse"))
    outcomes: list[Any] = await asyncio.gather(
        *(stack.begin(session_id="ses_1") for _ in range(4)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, SlipwayError)]
    assert [error.reason for error in refused] == ["SESSION_BUSY"] * 3
    (started,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert refused[0].metadata["run_id"] == started
    await stack.begin(session_id="ses_2")
    await stack.begin()
    await stack.worker()
    await stack.call(stack.runs.CancelRun, pb.CancelRunRequest(run_id=started))
    await stack.finish(started)
    await stack.begin(session_id="ses_1")


async def test_a_newer_run_interrupts_the_older_one(stack: Stack) -> None:
    await stack.worker()
    await stack.promote(_agent("interrupt"))
    older = await stack.begin(session_id="ses_1")
    await stack.pending(older)
    newer = await stack.begin(session_id="ses_1")
    run = await stack.finish(older)
    assert run.state == pb.RUN_STATE_CANCELLED
    await stack.decide(await stack.pending(newer), "approve")
    assert (await stack.finish(newer)).state == pb.RUN_STATE_SUCCEEDED
