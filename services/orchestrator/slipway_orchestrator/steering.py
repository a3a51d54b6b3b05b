"""What people do to a run that exists: cancel, pause, resume, signal, raise its limits.

Nobody but the holder of its lease appends to a journal: all of these go through the run's inbox, and its worker lets
them take effect at once.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument, ResourceExhausted
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.ids import new_id
from slipway_chassis.jcs import NotCanonical, canonical_json
from slipway_chassis.policy import PolicyEngine

from slipway_orchestrator.errors import AlreadyPaused, RunEnded, RunNotFound, RunNotPaused
from slipway_orchestrator.metrics import STEERED
from slipway_orchestrator.once import RequestKey, Transaction
from slipway_orchestrator.raising import NewLimits, check_raised
from slipway_orchestrator.recording import record_on_run
from slipway_orchestrator.registry import stored_definition
from slipway_orchestrator.runs import TERMINAL_STATES, Run
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.excerpts import Excerpts
from slipway_orchestrator.store.runs import InboxKind, RunStore
from slipway_orchestrator.store.suspensions import SuspensionStore

MAX_PAYLOAD = 64 * 1024
"""Bytes of a signal's payload as JSON."""
MAX_WAITING = 1000
"""Items that may wait in a run's inbox."""
MOST_CANCELLED = 2000
"""Runs that one bulk cancel may ask to stop."""
_DEFAULT_CANCELLED = 1000
_BATCH = 50
_MAX_REASON = 1000
_SIGNAL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")

Check = Callable[[Any, Run], Awaitable[dict[str, JsonValue]]]


class InboxFull(ResourceExhausted):
    """Too much waits for this run's worker already."""

    reason = "RUN_INBOX_FULL"


@dataclass(frozen=True, slots=True)
class CancelFilter:
    """Which runs a bulk cancel means."""

    agent: str
    states: Sequence[str]
    labels: Mapping[str, str]
    limit: int
    """0: the default."""


class SteeringDesk:
    """What callers may do with runs that exist."""

    def __init__(
        self,
        transaction: Transaction,
        runs: RunStore,
        agents: AgentStore,
        excerpts: Excerpts,
        suspensions: SuspensionStore,
        policy: PolicyEngine,
        evidence: Evidence,
    ) -> None:
        self._transaction = transaction
        self._runs = runs
        self._agents = agents
        self._excerpts = excerpts
        self._suspensions = suspensions
        self._policy = policy
        self._evidence = evidence

    async def cancel(self, caller: Caller, run_id: str, reason: str, key: RequestKey, *, force: bool) -> Run:
        """Ask the run to stop. Raises RunEnded."""
        _check_reason(reason)

        async def check(conn: Any, run: Run) -> dict[str, JsonValue]:
            return {"reason": reason, "force": force}

        return await self._steer(caller, run_id, key, "CancelRun", "cancel", "run.cancel_requested", check)

    async def pause(self, caller: Caller, run_id: str, reason: str, key: RequestKey) -> Run:
        """Keep the run from going on after what it is doing. Raises RunEnded or AlreadyPaused."""
        _check_reason(reason)

        async def check(conn: Any, run: Run) -> dict[str, JsonValue]:
            if run.state == "PAUSED" and not await self._runs.in_inbox(conn, run_id, ("resume", "limits", "unsuspend")):
                raise AlreadyPaused(f"run {run_id} is paused already")
            return {"reason": reason}

        return await self._steer(caller, run_id, key, "PauseRun", "pause", "run.pause_requested", check)

    async def resume(self, caller: Caller, run_id: str, reason: str, key: RequestKey) -> Run:
        """Let a paused run go on. Raises RunEnded, RunNotPaused, or what a kill switch raises."""
        _check_reason(reason)

        async def check(conn: Any, run: Run) -> dict[str, JsonValue]:
            if run.state != "PAUSED" and not await self._runs.in_inbox(conn, run_id, ("pause", "suspend")):
                raise RunNotPaused(f"run {run_id} is {run.state}", metadata={"state": run.state})
            suspension = await self._suspensions.of(conn, run.identity.tenant, run.identity.agent)
            if suspension is not None:
                raise suspension.error()
            return {"reason": reason}

        return await self._steer(caller, run_id, key, "ResumeRun", "resume", "run.resume_requested", check)

    async def signal(self, caller: Caller, run_id: str, name: str, payload_json: str, key: RequestKey) -> Run:
        """Hand the run a value. Raises RunEnded, InboxFull, or InvalidArgument that names the field."""
        if _SIGNAL_NAME.fullmatch(name) is None:
            raise InvalidArgument("must be a letter and up to 62 letters, digits, `_`, `.` or `-`", field="name")
        payload = _payload(payload_json)

        async def check(conn: Any, run: Run) -> dict[str, JsonValue]:
            return {"name": name, "payload": payload}

        return await self._steer(caller, run_id, key, "SignalRun", "signal", "run.signal_sent", check, shown=("name",))

    async def raise_limits(self, caller: Caller, run_id: str, wanted: NewLimits, key: RequestKey) -> Run:
        """Raise limits; a run that paused at one goes on. Raises RunEnded or LimitNotRaised."""

        async def check(conn: Any, run: Run) -> dict[str, JsonValue]:
            own = run.identity
            version = await self._agents.version(conn, own.tenant, own.agent, own.version)
            if version is None:
                raise _no_run(run_id)
            raised = [
                event["limits"]
                for event in await self._excerpts.of_kind(conn, own, "limits.raised")
                if isinstance(event.get("limits"), dict)
            ]
            declared = stored_definition(version.definition).limits
            return {"limits": check_raised(declared, cast(list[dict[str, JsonValue]], raised), wanted)}

        return await self._steer(caller, run_id, key, "RaiseRunLimits", "limits", "run.limits_raise_requested", check)

    async def cancel_many(
        self, caller: Caller, wanted: CancelFilter, reason: str, key: RequestKey, *, force: bool
    ) -> tuple[int, bool]:
        """Ask all matching runs to stop that the caller may cancel: how many, and whether there are more.

        Each batch is a transaction of its own: what was asked before a crash stays asked, and asking again goes on.
        """
        _check_reason(reason)
        _check_filter(wanted)

        async def produce() -> bytes:
            return json.dumps(await self._cancel_batches(caller, wanted, reason, force=force)).encode()

        async with self._transaction() as conn:
            answer = await once(conn, caller, key.method, key.request_id, key.fingerprint, produce)
        count, more = json.loads(answer)
        return count, more

    async def _cancel_batches(
        self, caller: Caller, wanted: CancelFilter, reason: str, *, force: bool
    ) -> tuple[int, bool]:
        limit = wanted.limit or _DEFAULT_CANCELLED
        count, after = 0, ""
        while True:
            async with self._transaction() as conn:
                found = await self._runs.cancellable(
                    conn, caller.tenant, wanted.agent, wanted.states, wanted.labels, after, _BATCH
                )
                for run in found:
                    decision = self._policy.decide(caller, "CancelRun", run.resource)
                    if not decision.allowed:
                        continue
                    if count == limit:
                        return count, True
                    facts: dict[str, JsonValue] = {"reason": reason, "force": force}
                    told = await record_on_run(
                        conn, self._evidence, caller, run, "run.cancel_requested", facts, decision
                    )
                    body: dict[str, JsonValue] = {"by": caller.subject, **facts, "record": told}
                    await self._runs.put_in_inbox(conn, run, "cancel", body)
                    await self._runs.wake(conn, run, new_id("wake"))
                    count += 1
                    STEERED.labels("cancel").inc()
            if len(found) < _BATCH:
                return count, False
            after = found[-1].run_id

    async def _steer(
        self,
        caller: Caller,
        run_id: str,
        key: RequestKey,
        action: str,
        kind: InboxKind,
        audited_as: str,
        check: Check,
        shown: Sequence[str] | None = None,
    ) -> Run:
        """Authorise, check, record, and put into the inbox. `shown`: what the audit event says; default: all."""

        async def produce(conn: Any) -> bytes:
            run = await self._runs.lock(conn, caller.tenant, run_id)
            if run is None:
                raise _no_run(run_id)
            decision = self._policy.authorize(caller, action, run.identity.resource)
            if run.ended:
                raise RunEnded(f"run {run_id} is {run.state} already", metadata={"state": run.state})
            body = await check(conn, run)
            if await self._runs.in_inbox(conn, run_id, ()) >= MAX_WAITING and kind != "cancel":
                raise InboxFull(f"{MAX_WAITING} items wait for run {run_id} already", retry_after=5)
            facts = {name: body[name] for name in shown} if shown is not None else body
            told = await record_on_run(conn, self._evidence, caller, run.identity, audited_as, facts, decision)
            await self._runs.put_in_inbox(conn, run.identity, kind, {"by": caller.subject, **body, "record": told})
            await self._runs.wake(conn, run.identity, new_id("wake"))
            return b""

        async with self._transaction() as conn:
            await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
            run = await self._runs.get(conn, caller.tenant, run_id)
        if run is None:
            raise _no_run(run_id)
        STEERED.labels(kind).inc()
        return run


def _payload(text: str) -> JsonValue:
    if len(text.encode()) > MAX_PAYLOAD:
        raise InvalidArgument(f"must have at most {MAX_PAYLOAD} bytes", field="payload")
    try:
        value: JsonValue = json.loads(text or "null")
        canonical_json(value)
    except (ValueError, RecursionError, NotCanonical) as error:
        raise InvalidArgument(f"is no JSON that can be kept exactly: {error}", field="payload") from error
    return value


def _check_reason(reason: str) -> None:
    if len(reason) > _MAX_REASON:
        raise InvalidArgument(f"must have at most {_MAX_REASON} characters", field="reason")


def _check_filter(wanted: CancelFilter) -> None:
    if not (wanted.agent or wanted.states or wanted.labels):
        raise InvalidArgument("name an agent, states or labels: nothing cancels everything by accident", field="agent")
    if not 0 <= wanted.limit <= MOST_CANCELLED:
        raise InvalidArgument(f"must be from 1 to {MOST_CANCELLED}", field="limit")
    if not TERMINAL_STATES.isdisjoint(wanted.states):
        raise InvalidArgument("runs in a final state cannot be cancelled", field="states")


def _no_run(run_id: str) -> RunNotFound:
    return RunNotFound(f"there is no run {run_id}")
