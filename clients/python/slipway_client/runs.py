"""Runs and the decisions in them."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from decimal import Decimal
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
from slipway_client.models import Approval, CancelledRuns, Replay, Run, RunEvent
from slipway_client.transport import Transport, read, route

_UNCHANGED: Any = object()
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
        priority: int | None = None,
        not_before: datetime | None = None,
        wait: int | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Starts a run. With `wait`, the answer comes when the run ends or after that many seconds."""
        body = {
            "input": input,
            "version": version,
            "session_id": session_id,
            "labels": labels,
            "priority": priority,
            "not_before": not_before.isoformat() if not_before else None,
        }
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

    def list(
        self,
        *,
        agent: str | None = None,
        state: str | None = None,
        label: str | None = None,
        parent: str | None = None,
    ) -> Iterator[Run]:
        """Runs of the tenant, newest first. `label` is `name:value`, `parent` the run whose children are wanted."""
        params = {"agent": agent, "state": state, "label": label, "parent": parent}
        return self._transport.pages(route("runs"), "runs", Run, params)

    def cancel(self, run_id: str, reason: str = "", *, force: bool = False) -> Run:
        """Asks a run to stop; with `force` it is broken off at once."""
        return self._steer(run_id, "cancel", {"reason": reason, "force": force})

    def cancel_many(
        self,
        *,
        agent: str | None = None,
        states: Sequence[str] = (),
        labels: dict[str, str] | None = None,
        reason: str = "",
        force: bool = False,
        limit: int | None = None,
    ) -> CancelledRuns:
        """Asks all unfinished runs to stop that match; at least one of agent, states and labels."""
        body = {
            "agent": agent,
            "states": list(states) or None,
            "labels": labels,
            "reason": reason,
            "force": force,
            "limit": limit,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return read(CancelledRuns, self._transport.call("POST", route("runs", "cancel"), json=given, timeout=90))

    def pause(self, run_id: str, reason: str = "") -> Run:
        """Keeps a run from going on after what it is doing."""
        return self._steer(run_id, "pause", {"reason": reason})

    def resume(self, run_id: str, reason: str = "") -> Run:
        """Lets a paused run go on."""
        return self._steer(run_id, "resume", {"reason": reason})

    def signal(self, run_id: str, name: str, payload: Any = None, *, idempotency_key: str | None = None) -> Run:
        """Hands a run a value that one of its steps waits for, or will."""
        return self._steer(run_id, "signal", {"name": name, "payload": payload}, idempotency_key)

    def raise_limits(
        self,
        run_id: str,
        *,
        steps: int | None = None,
        tokens: int | None = None,
        cost_usd: Decimal | float | None = None,
        wall_time: str | None = None,
        tool_errors: int | None = None,
        repeats: int | None = None,
    ) -> Run:
        """Raises limits of one run; if it paused at one, it goes on. `wall_time` like `2h`."""
        body = {
            "steps": steps,
            "tokens": tokens,
            "cost_usd": None if cost_usd is None else float(cost_usd),
            "wall_time": wall_time,
            "tool_errors": tool_errors,
            "repeats": repeats,
        }
        return self._steer(run_id, "limits", {name: value for name, value in body.items() if value is not None})

    def fork(
        self,
        run_id: str,
        seq: int,
        *,
        input: Any = _UNCHANGED,  # noqa: A002 # the API's own word
        version: int | None = None,
        labels: dict[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Starts a run from a copy of this one's journal up to event `seq`; nothing of it is done again."""
        body: dict[str, Any] = {"seq": seq}
        if input is not _UNCHANGED:
            body["input"] = input
        if version is not None:
            body["version"] = version
        if labels:
            body["labels"] = labels
        return self._steer(run_id, "fork", body, idempotency_key)

    def replay(self, run_id: str) -> Replay:
        """Decides a finished run once more, without effects: whether it decides the same."""
        return read(Replay, self._transport.call("POST", route("runs", run_id, "replay"), json={}, timeout=90))

    def _steer(self, run_id: str, verb: str, body: dict[str, Any], idempotency_key: str | None = None) -> Run:
        path = route("runs", run_id, verb)
        return read(Run, self._transport.call("POST", path, json=body, idempotency_key=idempotency_key, timeout=90))

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
