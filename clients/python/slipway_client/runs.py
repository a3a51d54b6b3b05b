"""Runs and the decisions in them."""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Any

import httpx

from slipway_client import sse
from slipway_client.errors import (
    ApiError,
    ConnectionFailedError,
    RateLimitedError,
    UnavailableError,
    UnexpectedAnswerError,
)
from slipway_client.models import Approval, Run, RunEvent
from slipway_client.transport import Transport, read, route

_TERMINAL = frozenset({"run.succeeded", "run.failed", "run.cancelled"})
# The gateway sends a comment at least every 15 s: longer silence means that the connection is gone.
_SILENCE_SECONDS = 45.0
# Seconds between attempts to follow a run; a connection that lived longer than the last of these had held.
_FIRST_PAUSE = 0.2
_LAST_PAUSE = 3.0
_HELD_SECONDS = 5.0


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
            route("agents", agent, "runs"),
            json={name: value for name, value in body.items() if value is not None},
            headers={"Prefer": f"wait={wait}"} if wait else None,
            idempotency_key=idempotency_key,
            timeout=(wait or 0) + 30,
        )
        return read(Run, answer)

    def get(self, run_id: str) -> Run:
        """One run."""
        return read(Run, self._transport.call("GET", route("runs", run_id)))

    def list(self, *, agent: str | None = None, state: str | None = None, label: str | None = None) -> Iterator[Run]:
        """Runs of the tenant, newest first."""
        return self._transport.pages(route("runs"), "runs", Run, {"agent": agent, "state": state, "label": label})

    def cancel(self, run_id: str, reason: str = "") -> Run:
        """Asks a run to stop."""
        return read(Run, self._transport.call("POST", route("runs", run_id, "cancel"), json={"reason": reason}))

    def events(self, run_id: str) -> Iterator[RunEvent]:
        """The journal as it stands."""
        return self._transport.pages(route("runs", run_id, "events"), "events", RunEvent)

    def follow(self, run_id: str, *, after: int = 0, patience: float = 60) -> Iterator[RunEvent]:
        """The journal from sequence number `after` on, live, until the run's terminal event.

        A connection that breaks is made anew at the next event: none is missed and none comes twice. Raises what went
        wrong last when `patience` seconds have passed without an event or a connection that held. Pieces of a model's
        answer (`model.delta`, `seq` None) are no journal: after a break some are missing or come again, their
        `attempt` and `offset` tell.
        """
        last = after
        patience_ends: float | None = None
        pause = _FIRST_PAUSE
        while True:
            opened = time.monotonic()
            try:
                with self._stream(run_id, last) as response:
                    if response.status_code == HTTPStatus.NO_CONTENT:
                        # The run has ended, and `last` is its last event.
                        return
                    for event in _events(response):
                        patience_ends, pause = None, _FIRST_PAUSE
                        if event.seq is not None:
                            if event.seq <= last:
                                continue
                            last = event.seq
                        yield event
                        if event.kind in _TERMINAL:
                            return
                raise ConnectionFailedError(f"the events of {run_id} ended before the run did")
            except (ConnectionFailedError, UnavailableError, RateLimitedError) as error:
                now = time.monotonic()
                if patience_ends is None or now - opened > _HELD_SECONDS:
                    patience_ends, pause = now + patience, _FIRST_PAUSE
                asked = error.retry_after or 0 if isinstance(error, ApiError) else 0
                if now + max(pause, asked) > patience_ends:
                    raise
                time.sleep(max(pause, asked))
                pause = min(pause * 2, _LAST_PAUSE)

    def _stream(self, run_id: str, last: int) -> AbstractContextManager[httpx.Response]:
        headers = {"Accept": "text/event-stream"}
        if last:
            headers["Last-Event-ID"] = str(last)
        return self._transport.stream(route("runs", run_id, "events"), headers=headers, timeout=_SILENCE_SECONDS)


def _events(response: httpx.Response) -> Iterator[RunEvent]:
    for event in sse.parse(response.iter_bytes()):
        try:
            data = json.loads(event.data)
        except ValueError as error:
            raise UnexpectedAnswerError(f"an event of a run is no JSON: {error}") from error
        if event.event == "model.delta":
            yield RunEvent(kind="model.delta", step_id=data.get("step_id"), data=data)
        else:
            yield read(RunEvent, data)


class Approvals:
    """`/v1/approvals`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, state: str | None = "pending", run_id: str | None = None) -> Iterator[Approval]:
        """Approvals that the caller may see."""
        return self._transport.pages(route("approvals"), "approvals", Approval, {"state": state, "run_id": run_id})

    def get(self, approval_id: str) -> Approval:
        """One approval."""
        return read(Approval, self._transport.call("GET", route("approvals", approval_id)))

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
        answer = self._transport.call("POST", route("approvals", approval.approval_id, "decide"), json=body)
        return read(Approval, answer)
