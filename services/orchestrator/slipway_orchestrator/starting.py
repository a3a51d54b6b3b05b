"""Starting, reading and cancelling runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.errors import FieldViolation, InvalidArgument
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.ids import new_id
from slipway_chassis.jcs import NotCanonical, canonical_json
from slipway_chassis.policy import PolicyDecision, PolicyEngine
from slipway_chassis.telemetry import current_trace_id, inject, span

from slipway_orchestrator.agents import AgentVersion, agent_resource
from slipway_orchestrator.core.events import SCHEMA_VERSION, RunStarted
from slipway_orchestrator.definitions.json_schema import violations
from slipway_orchestrator.errors import (
    AgentNotFound,
    AgentVersionNotFound,
    InputInvalid,
    NotInProduction,
    RunEnded,
    RunNotFound,
)
from slipway_orchestrator.once import RequestKey, Transaction
from slipway_orchestrator.registry import stored_definition
from slipway_orchestrator.runs import MAX_INPUT, JournalRow, Run, RunIdentity
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.journal import Head, Journal
from slipway_orchestrator.store.runs import NewRun, RunStore

_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a caller asks for."""

    agent: str
    version: int
    """0: the one in production."""
    input_json: str
    session_id: str
    labels: Mapping[str, str]
    run_grant: str
    priority: int
    not_before: datetime | None


class RunDesk:
    """What callers may do with runs."""

    def __init__(
        self,
        transaction: Transaction,
        runs: RunStore,
        agents: AgentStore,
        journal: Journal,
        policy: PolicyEngine,
        evidence: Evidence,
    ) -> None:
        self._transaction = transaction
        self._runs = runs
        self._agents = agents
        self._journal = journal
        self._policy = policy
        self._evidence = evidence

    async def start(self, caller: Caller, request: StartRequest, key: RequestKey) -> Run:
        """Commit the run, its first event, its audit event and its wake-up together."""
        value = _check_request(request)
        # The span is the root of the run's trace: workers go on from its context.
        with span("invoke_agent", attributes={"gen_ai.agent.name": request.agent}):

            async def produce(conn: Any) -> bytes:
                return (await self._start(conn, caller, request, value)).encode()

            async with self._transaction() as conn:
                answer = await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
                return await self._known(conn, caller, answer.decode())

    async def get(self, caller: Caller, run_id: str) -> Run:
        """The run. Raises RunNotFound, also for another tenant's."""
        async with self._transaction() as conn:
            run = await self._known(conn, caller, run_id)
        self._policy.authorize(caller, "ReadRun", run.identity.resource)
        return run

    async def page(
        self,
        caller: Caller,
        *,
        agent: str,
        states: Sequence[str],
        labels: Mapping[str, str],
        before: str,
        limit: int,
    ) -> tuple[list[Run], str]:
        """The runs of the tenant that the caller may read, newest first, and the id after which to go on ("": end)."""
        found: list[Run] = []
        while True:
            async with self._transaction() as conn:
                page = await self._runs.page(
                    conn, caller.tenant, agent=agent, states=states, labels=labels, before=before, limit=limit + 1
                )
            for run in page[:limit]:
                before = run.identity.run_id
                if self._policy.decide(caller, "ReadRun", run.identity.resource).allowed:
                    found.append(run)
                    if len(found) == limit:
                        return found, before if run is not page[-1] else ""
            if len(page) <= limit:
                return found, ""

    async def follow(self, run: RunIdentity, after_seq: int, limit: int) -> list[JournalRow]:
        """Journal rows after a sequence number, for whoever was let read the run."""
        async with self._transaction() as conn:
            return await self._journal.read(conn, run, after_seq, limit)

    async def events(self, caller: Caller, run_id: str, after_seq: int, limit: int) -> tuple[list[JournalRow], bool]:
        """Journal rows after a sequence number, and whether there are more already."""
        run = await self.get(caller, run_id)
        async with self._transaction() as conn:
            rows = await self._journal.read(conn, run.identity, after_seq, limit)
            last, _ = await self._runs.last_seq(conn, run_id)
        return rows, bool(rows) and rows[-1].seq < last

    async def cancel(self, caller: Caller, run_id: str, reason: str, key: RequestKey) -> Run:
        """Ask the run to stop: its worker journals it. Raises RunEnded."""

        async def produce(conn: Any) -> bytes:
            run = await self._runs.lock(conn, caller.tenant, run_id)
            if run is None:
                raise _no_run(run_id)
            decision = self._policy.authorize(caller, "CancelRun", run.identity.resource)
            if run.ended:
                raise RunEnded(f"run {run_id} is {run.state} already", metadata={"state": run.state})
            record = await self._record(
                conn, caller, run.identity, "run.cancel_requested", {"reason": reason}, decision
            )
            body: dict[str, JsonValue] = {"by": caller.subject, "reason": reason, "record": record}
            await self._runs.put_in_inbox(conn, run.identity, "cancel", body)
            await self._runs.wake(conn, run.identity, new_id("wake"))
            return b""

        async with self._transaction() as conn:
            await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
            return await self._known(conn, caller, run_id)

    async def _start(self, conn: Any, caller: Caller, request: StartRequest, value: JsonValue) -> str:
        version = await self._startable(conn, caller, request)
        decision = self._policy.authorize(caller, "StartAgent", agent_resource(caller.tenant, request.agent))
        definition = stored_definition(version.definition)
        wrong = violations(json.dumps(definition.input_schema), value)
        if wrong:
            found = [FieldViolation(f"input.{path}" if path else "input", message) for path, message in wrong]
            raise InputInvalid(f"the input does not fit: {found[0].field}: {found[0].message}", violations=found)
        now = datetime.now(UTC)
        identity = _identity(caller, request, version)
        event = RunStarted(
            agent=version.agent,
            version=version.version,
            digest=version.digest,
            caller=caller.subject,
            proposer=caller.person,
            input=value,
            labels=dict(request.labels),
            priority=request.priority,
            session_id=request.session_id or None,
            not_before=request.not_before,
        )
        new = NewRun(
            identity, Head(), value, request.labels, request.priority, request.not_before, request.run_grant,
            SCHEMA_VERSION, now,
        )  # fmt: skip
        await self._runs.insert(conn, new)
        head = await self._journal.append(conn, identity, Head(), 0, [(now, event)], decision)
        await self._runs.begin(conn, identity, head)
        await self._runs.wake(conn, identity, new_id("wake"))
        return identity.run_id

    async def _startable(self, conn: Any, caller: Caller, request: StartRequest) -> AgentVersion:
        agent = await self._agents.get(conn, caller.tenant, request.agent)
        if agent is None:
            raise AgentNotFound(f"there is no agent {request.agent}")
        number = request.version or agent.production_version
        if not number:
            raise NotInProduction(f"no version of {request.agent} is in production; have one approved and promoted")
        version = await self._agents.version(conn, caller.tenant, request.agent, number)
        if version is None:
            raise AgentVersionNotFound(f"agent {request.agent} has no version {number}")
        if version.state != "APPROVED":
            raise NotInProduction(
                f"version {number} of {request.agent} is {version.state}; only approved versions run",
                metadata={"state": version.state},
            )
        return version

    async def _known(self, conn: Any, caller: Caller, run_id: str) -> Run:
        run = await self._runs.get(conn, caller.tenant, run_id)
        if run is None:
            raise _no_run(run_id)
        return run

    async def _record(
        self,
        conn: Any,
        caller: Caller,
        run: RunIdentity,
        kind: str,
        data: Mapping[str, JsonValue],
        decision: PolicyDecision,
    ) -> dict[str, JsonValue]:
        sealed = self._evidence.seal(
            kind,
            caller=caller,
            subject=run.subject,
            resource=f"run:{run.run_id}",
            data=data,
            time=datetime.now(UTC),
            run_id=run.run_id,
            policy=decision,
            trace_id=current_trace_id(),
        )
        await self._evidence.record(conn, sealed, subject=run.subject)
        return {"event_id": sealed.event_id, "commitment": sealed.commitment}


def _identity(caller: Caller, request: StartRequest, version: AgentVersion) -> RunIdentity:
    run_id = new_id("run")
    actor = Caller(
        subject=caller.subject,
        tenant=caller.tenant,
        kind=caller.kind,
        roles=caller.roles,
        groups=caller.groups,
        act=f"{version.agent}@{version.version}",
        run_id=run_id,
        token_id=caller.token_id,
        expires_at=caller.expires_at,
        name=caller.name,
    )
    return RunIdentity(
        run_id=run_id,
        tenant=caller.tenant,
        agent=version.agent,
        version=version.version,
        digest=version.digest,
        subject=caller.subject,
        caller=actor,
        traceparent=inject().get("traceparent", ""),
        trace_id=current_trace_id(),
        session_id=request.session_id,
    )


def _check_request(request: StartRequest) -> JsonValue:
    """The input as a value. Raises InputInvalid or InvalidArgument that names the field."""
    if len(request.input_json.encode()) > MAX_INPUT:
        raise InputInvalid(f"the input has more than {MAX_INPUT} bytes", field="input")
    try:
        value: JsonValue = json.loads(request.input_json or "{}")
        _check_depth(value)
        canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise InputInvalid(f"the input is no JSON: {error}", field="input") from error
    except NotCanonical as error:
        raise InputInvalid(f"the input cannot be kept exactly: {error.message}", field="input") from error
    if len(request.labels) > 16 or any(len(k) > 63 or len(v) > 256 for k, v in request.labels.items()):
        raise InvalidArgument("at most 16 labels, names of 63 and values of 256 characters", field="labels")
    if not 0 <= request.priority <= 9:
        raise InvalidArgument("must be from 0 to 9", field="priority")
    if not request.run_grant:
        raise InvalidArgument("a run acts under a grant, which the gateway signs", field="run_grant")
    return value


def _check_depth(value: JsonValue, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST} levels")
    if isinstance(value, dict):
        for item in value.values():
            _check_depth(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_depth(item, depth + 1)


def _no_run(run_id: str) -> RunNotFound:
    return RunNotFound(f"there is no run {run_id}")
