"""Runs and the decisions in them."""

import json
import time
from collections.abc import Iterator
from typing import Any

from slipway_client import sse
from slipway_client.errors import ConnectionFailedError
from slipway_client.models import Approval, Run, RunEvent
from slipway_client.transport import Transport

_TERMINAL = frozenset({"run.succeeded", "run.failed", "run.cancelled"})


class Runs:
    """`/v1/runs`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def start(
        self,
        agent: str,
        input: Any,  # noqa: A002 # the API's own word
        *,
        version: int | None = None,
        session_id: str | None = None,
        labels: dict[str, str] | None = None,
        wait: int | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Starts a run. With `wait`, the answer comes when the run ends or after that many seconds."""
        body = {"input": input, "version": version, "session_id": session_id, "labels": labels}
        answer = self._transport.call(
            "POST",
            f"/v1/agents/{agent}/runs",
            json={name: value for name, value in body.items() if value is not None},
            headers={"Prefer": f"wait={wait}"} if wait else None,
            idempotency_key=idempotency_key,
            timeout=(wait or 0) + 30,
        )
        return Run.model_validate(answer)

    def get(self, run_id: str) -> Run:
        """One run."""
        return Run.model_validate(self._transport.call("GET", f"/v1/runs/{run_id}"))

    def list(self, *, agent: str | None = None, state: str | None = None, label: str | None = None) -> Iterator[Run]:
        """Runs of the tenant, newest first."""
        return self._transport.pages("/v1/runs", "runs", Run, {"agent": agent, "state": state, "label": label})

    def cancel(self, run_id: str, reason: str = "") -> Run:
        """Asks a run to stop."""
        return Run.model_validate(self._transport.call("POST", f"/v1/runs/{run_id}/cancel", json={"reason": reason}))

    def events(self, run_id: str) -> Iterator[RunEvent]:
        """The journal as it stands."""
        return self._transport.pages(f"/v1/runs/{run_id}/events", "events", RunEvent)

    def follow(self, run_id: str, *, after: int = 0, patience: float = 60) -> Iterator[RunEvent]:
        """The journal from sequence number `after` on, live, until the run's terminal event.

        A connection that breaks is made anew at the next event for up to `patience` seconds without one: no event is
        missed and none comes twice. Raises ConnectionFailedError after that.
        """
        last = after
        broken_since: float | None = None
        while True:
            try:
                for event in self._follow_once(run_id, last):
                    broken_since = None
                    if event.seq is not None:
                        if event.seq <= last:
                            continue
                        last = event.seq
                    yield event
                    if event.kind in _TERMINAL:
                        return
            except ConnectionFailedError:
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > patience:
                    raise
            time.sleep(0.2)

    def _follow_once(self, run_id: str, last: int) -> Iterator[RunEvent]:
        headers = {"Accept": "text/event-stream"}
        if last:
            headers["Last-Event-ID"] = str(last)
        # The gateway sends a comment at least every 15 s: silence means that the connection is gone.
        with self._transport.stream(f"/v1/runs/{run_id}/events", headers=headers, timeout=45) as response:
            for event in sse.parse(response.iter_lines()):
                data = json.loads(event.data)
                if event.event == "model.delta":
                    yield RunEvent(kind="model.delta", step_id=data.get("step_id"), data=data)
                else:
                    yield RunEvent.model_validate(data)


class Approvals:
    """`/v1/approvals`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, state: str | None = "pending", run_id: str | None = None) -> Iterator[Approval]:
        """Approvals that the caller may see."""
        return self._transport.pages("/v1/approvals", "approvals", Approval, {"state": state, "run_id": run_id})

    def get(self, approval_id: str) -> Approval:
        """One approval."""
        return Approval.model_validate(self._transport.call("GET", f"/v1/approvals/{approval_id}"))

    def decide(
        self,
        approval: Approval,
        decision: str,
        *,
        arguments: Any = None,
        message: str | None = None,
    ) -> Approval:
        """Decides: approve, edit, reject or respond. What was shown is bound by its digest."""
        body: dict[str, Any] = {"decision": decision, "arguments_digest": approval.arguments_digest}
        if arguments is not None:
            body["arguments"] = arguments
        if message is not None:
            body["message"] = message
        answer = self._transport.call("POST", f"/v1/approvals/{approval.approval_id}/decide", json=body)
        return Approval.model_validate(answer)
