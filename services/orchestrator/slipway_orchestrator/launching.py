"""Committing new runs: what must hold, and all that comes into being with one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.errors import FieldViolation, InvalidArgument
from slipway_chassis.ids import new_id
from slipway_chassis.jcs import NotCanonical, canonical_json
from slipway_chassis.policy import PolicyDecision, PolicyEngine
from slipway_chassis.telemetry import current_trace_id, inject

from slipway_orchestrator.agents import AgentVersion, agent_resource
from slipway_orchestrator.core.definition import Definition, SessionConcurrency
from slipway_orchestrator.core.events import RunStarted
from slipway_orchestrator.definitions.json_schema import violations
from slipway_orchestrator.errors import (
    AgentNotFound,
    AgentVersionNotFound,
    InputInvalid,
    NotInProduction,
    SessionBusy,
)
from slipway_orchestrator.registry import stored_definition
from slipway_orchestrator.runs import MAX_INPUT, Place, Run, RunIdentity
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.journal import Head, Journal
from slipway_orchestrator.store.runs import NewRun, RunStore
from slipway_orchestrator.store.suspensions import SuspensionStore

_DEEPEST = 100
_LATEST = timedelta(days=366)
"""How far ahead a run may be started."""


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
    schedule: str = ""
    input_tainted: bool = False
    """The input derives from what came from outside."""


class Launcher:
    """Inserts runs, in the transaction of whoever starts them."""

    def __init__(
        self,
        runs: RunStore,
        agents: AgentStore,
        journal: Journal,
        suspensions: SuspensionStore,
        policy: PolicyEngine,
    ) -> None:
        self._runs = runs
        self._agents = agents
        self._journal = journal
        self._suspensions = suspensions
        self._policy = policy

    async def launch(self, conn: Any, caller: Caller, request: StartRequest, value: JsonValue) -> Run:
        """Insert the run with its first event and its wake-up. Raises as `startable`, or SessionBusy."""
        version, definition, decision = await self.startable(conn, caller, request.agent, request.version)
        check_input(definition, value)
        now = datetime.now(UTC)
        identity = new_identity(caller, version, caller.subject, request.session_id)
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
            schedule=request.schedule or None,
            worker_pool=definition.scheduling.worker_pool or None,
            tainted=request.input_tainted or None,
        )
        if request.session_id:
            await self._enter_session(conn, caller, request.session_id, definition.session.concurrency)
        written = await self._journal.write(conn, identity, Head(), 0, [(now, event)], decision)
        new = NewRun(
            identity=identity,
            head=written.head,
            input=value,
            labels=request.labels,
            priority=request.priority,
            not_before=request.not_before,
            run_grant=request.run_grant,
            journal_version=max(definition.journal_version, written.version),
            time=now,
            place=Place(identity.run_id, schedule=request.schedule),
            worker_pool=definition.scheduling.worker_pool,
            session_policy=definition.session.concurrency,
            agent_concurrency=definition.scheduling.concurrency,
        )
        await self._runs.launch(conn, new, written)
        return new.as_run()

    async def _enter_session(self, conn: Any, caller: Caller, session_id: str, policy: SessionConcurrency) -> None:
        """What the runs mean to this one that are unfinished on its session. Raises SessionBusy."""
        older = await self._runs.on_session(conn, caller.tenant, session_id)
        if not older:
            return
        if policy == "refuse":
            raise SessionBusy(
                f"run {older[0].run_id} is not finished on session {session_id}", metadata={"run_id": older[0].run_id}
            )
        if policy == "interrupt":
            for run in older:
                body: dict[str, JsonValue] = {
                    "by": caller.subject, "reason": "a newer run of the session began", "force": False
                }  # fmt: skip
                await self._runs.put_in_inbox(conn, run, "cancel", body)
                await self._runs.wake(conn, run, new_id("wake"))

    async def startable(
        self, conn: Any, caller: Caller, agent_name: str, wanted: int
    ) -> tuple[AgentVersion, Definition, PolicyDecision]:
        """The version that a run of an agent takes (0: the one in production), if the caller may start it now.

        Raises AgentNotFound, AgentVersionNotFound, NotInProduction, PolicyDenied, or what a kill switch raises.
        """
        found = await self._agents.wanted(conn, caller.tenant, agent_name, wanted)
        if found is None:
            raise AgentNotFound(f"there is no agent {agent_name}")
        number, version = found
        if not number:
            raise NotInProduction(f"no version of {agent_name} is in production; have one approved and promoted")
        if version is None:
            raise AgentVersionNotFound(f"agent {agent_name} has no version {number}")
        if version.state != "APPROVED":
            raise NotInProduction(
                f"version {number} of {agent_name} is {version.state}; only approved versions run",
                metadata={"state": version.state},
            )
        decision = self._policy.authorize(caller, "StartAgent", agent_resource(caller.tenant, agent_name))
        suspension = await self._suspensions.of(conn, caller.tenant, agent_name)
        if suspension is not None:
            raise suspension.error()
        return version, stored_definition(version.definition), decision


def new_identity(caller: Caller, version: AgentVersion, subject: str, session_id: str) -> RunIdentity:
    """A run of the caller's. `subject` is whom its data belongs to."""
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
        owner=caller.owner,
    )
    return RunIdentity(
        run_id=run_id,
        tenant=caller.tenant,
        agent=version.agent,
        version=version.version,
        digest=version.digest,
        subject=subject,
        caller=actor,
        traceparent=inject().get("traceparent", ""),
        trace_id=current_trace_id(),
        session_id=session_id,
    )


def read_input(text: str) -> JsonValue:
    """The input of a run as a value. Raises InputInvalid."""
    if len(text.encode()) > MAX_INPUT:
        raise InputInvalid(f"the input has more than {MAX_INPUT} bytes", field="input")
    try:
        value: JsonValue = json.loads(text or "{}")
        _check_depth(value)
        canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise InputInvalid(f"the input is no JSON: {error}", field="input") from error
    except NotCanonical as error:
        raise InputInvalid(f"the input cannot be kept exactly: {error.message}", field="input") from error
    return value


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidArgument for labels that a run cannot have."""
    if len(labels) > 16 or any(len(k) > 63 or len(v) > 256 for k, v in labels.items()):
        raise InvalidArgument("at most 16 labels, names of 63 and values of 256 characters", field="labels")


def check_input(definition: Definition, value: JsonValue) -> None:
    """Raise InputInvalid, which names the fields, for an input that does not fit the agent's schema."""
    wrong = violations(json.dumps(definition.input_schema), value)
    if wrong:
        found = [FieldViolation(f"input.{path}" if path else "input", message) for path, message in wrong]
        raise InputInvalid(f"the input does not fit: {found[0].field}: {found[0].message}", violations=found)


def check_request(request: StartRequest) -> JsonValue:
    """The input as a value. Raises InputInvalid or InvalidArgument that names the field."""
    value = read_input(request.input_json)
    check_labels(request.labels)
    if not 0 <= request.priority <= 9:
        raise InvalidArgument("must be from 0 to 9", field="priority")
    if request.not_before is not None and request.not_before > datetime.now(UTC) + _LATEST:
        raise InvalidArgument(f"must be within {_LATEST.days} days", field="not_before")
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
