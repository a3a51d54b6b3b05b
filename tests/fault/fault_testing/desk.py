"""The agent whose runs the tests follow, and what must hold of every one of them at its end."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from slipway_cli.session import NotSignedInError
from slipway_client import Approval, Client, Run
from slipway_client.errors import ApiError, ConnectionFailedError
from slipway_evidence.note import VerifierKey
from slipway_evidence.verify import Outcome, verify
from slipway_testkit.stack import Stack

from fault_testing.ledger import Ledger

T = TypeVar("T")

AGENT, TOOL = "fault-desk", "fault.book"

_DEFINITION = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {name: fault-desk}
spec:
  type: workflow
  description: Computes in a sandbox and books the result.
  input:
    type: object
    required: [number, reference, gated]
    properties: {number: {type: integer}, reference: {type: string}, gated: {type: boolean}}
  output: {type: object, required: [square, booking]}
  limits: {steps: 100, tokens: 1000, cost_usd: 0.01, wall_time: 1h, tool_errors: 100, repeats: 100, on_limit: fail}
  steps:
    - {id: number, set: "${input.number}"}
    - id: square
      tool:
        name: python
        arguments:
          code: |
            import json
            from pathlib import Path
            Path("result.json").write_text(json.dumps({"square": int(input()) ** 2}))
          stdin: "${string(steps.number.output)}"
    - id: book
      tool:
        name: fault.book
        arguments: {reference: "${input.reference}", amount: "${steps.square.output.square}"}
      approval: {when: "input.gated", approvers: [role:refund-approver], expires: 1h, on_expiry: reject}
      retry: {attempts: 40, backoff: 500ms, max_backoff: 3s, on: [UNAVAILABLE, DEADLINE_EXCEEDED]}
  result:
    square: "${steps.square.output.square}"
    booking: "${steps.book.output.booking_id}"
"""


@dataclass(frozen=True)
class Order:
    """The input of one run, from which everything that it must do follows."""

    number: int
    reference: str
    gated: bool = False

    @property
    def input(self) -> dict[str, Any]:
        return {"number": self.number, "reference": self.reference, "gated": self.gated}

    @property
    def output(self) -> dict[str, Any]:
        return {"square": self.number**2, "booking": f"B-{self.reference}"}


def persistent(call: Callable[[], T], seconds: float = 180) -> T:
    """What a sensible client does: asks again while the stack cannot answer. Calls carry keys, so that is safe.

    500 is no such answer: whatever server is away, Slipway knows that.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (ConnectionFailedError, NotSignedInError) as error:
            failure: Exception = error
        except ApiError as error:
            if error.status not in {429, 502, 503, 504}:
                raise
            failure = error
        if time.monotonic() > deadline:
            raise failure
        time.sleep(0.2)


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Waits, bounded, until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


def open_desk(stack: Stack, ledger: Ledger) -> None:
    """Declares the tool and brings the agent to production."""
    schema = {"type": "object", "required": ["booking_id"], "properties": {"booking_id": {"type": "string"}}}
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob:
        alice.tools.put(
            TOOL,
            {
                "description": "Books an amount.",
                "input_schema": {"type": "object"},
                "output_schema": schema,
                "http": {"method": "POST", "url": f"http://{ledger.address}/bookings", "timeout_seconds": 60},
                "idempotent": True,
            },
        )
        version = alice.agents.put(AGENT, _DEFINITION).version
        alice.agents.submit(AGENT, version)
        bob.agents.approve(AGENT, version)
        bob.agents.promote(AGENT, version)


def start(alice: Client, order: Order) -> str:
    """Starts a run, once, however often it has to be asked; answers with its id."""
    return persistent(lambda: alice.runs.start(AGENT, order.input, idempotency_key=f"start-{order.reference}").run_id)


def decide(bob: Client, approval: Approval) -> None:
    """Approves; a repetition after a lost answer finds it decided."""

    def ask() -> None:
        try:
            bob.approvals.decide(approval, "approve")
        except ApiError as error:
            if error.status != 409 or bob.approvals.get(approval.approval_id).state != "APPROVED":
                raise

    persistent(ask)


def approve_all(stack: Stack, references: set[str], stop: threading.Event) -> None:
    """bob, who approves what waits for him, until he is told to stop."""
    with stack.as_user("bob") as bob:
        while not stop.wait(0.5):
            for approval in persistent(lambda: list(bob.approvals.list(state="pending"))):
                if approval.arguments and approval.arguments.get("reference") in references:
                    decide(bob, approval)


def ended(client: Client, run_id: str) -> Run | None:
    """The run when it has ended, else None."""
    run = persistent(lambda: client.runs.get(run_id))
    return run if run.ended else None


def check_run(client: Client, ledger: Ledger, run_id: str, order: Order) -> None:
    """What must hold at the end, whatever happened on the way."""
    run = client.runs.get(run_id)
    assert run.state == "SUCCEEDED", f"{run_id} of {order}: {run.state}, {run.error}"
    assert run.output == order.output
    events = list(client.runs.events(run_id))
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), f"the journal of {run_id} has a gap"
    kinds = [(event.kind, event.step_id) for event in events]
    for step in ("number", "square", "book"):
        assert kinds.count(("step.completed", step)) == 1, f"{run_id}: step {step} was not completed once: {kinds}"
    assert kinds.count(("run.succeeded", None)) == 1
    assert kinds[-1] == ("run.succeeded", None)
    (booking,) = ledger.bookings(order.reference)
    assert booking["amount"] == order.number**2
    assert booking["key"].startswith(run_id)


def check_evidence(auditor: Client, run_id: str, journal_events: int, seconds: float = 60) -> None:
    """The bundle of a run becomes complete, and holds."""
    key = VerifierKey.parse(str(auditor.audit.checkpoint().model_dump()["verifier_key"]))
    deadline = time.monotonic() + seconds
    while True:
        bundle = auditor.audit.evidence(run_id)
        report = verify(bundle, key)
        assert report.outcome is not Outcome.FAILED, f"{run_id}: {report.finding}"
        if report.ok:
            break
        assert time.monotonic() < deadline, f"{run_id} lacks evidence after {seconds:g} s: {report.finding}"
        time.sleep(0.5)
    assert report.summary is not None
    assert report.summary.journal_events == journal_events
    # One record per call of a tool at least.
    assert report.summary.records >= 2, json.loads(bundle)
