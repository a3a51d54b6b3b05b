"""Child runs: begun by `agent` steps in the parent's commit, heard of again through its inbox."""

import json

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.ids import new_id

from slipway_orchestrator.agents import agent_resource
from slipway_orchestrator.core.actions import Instance, Perform
from slipway_orchestrator.core.definition import MAX_DEPTH, AgentCall, Definition
from slipway_orchestrator.core.events import (
    SCHEMA_VERSION,
    Event,
    LimitsRaised,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepStarted,
)
from slipway_orchestrator.core.limits import limits_of
from slipway_orchestrator.core.outcomes import failed
from slipway_orchestrator.core.retry import Failure
from slipway_orchestrator.core.state import CONTAINERS, Phase
from slipway_orchestrator.core.workflow.decider import Within, Workflow
from slipway_orchestrator.definitions.json_schema import violations
from slipway_orchestrator.runs import Place, RunIdentity
from slipway_orchestrator.store.leases import InboxItem
from slipway_orchestrator.store.runs import NewChild
from slipway_orchestrator.worker.attempt import AttemptFailed
from slipway_orchestrator.worker.held import Held
from slipway_orchestrator.worker.performing import came_to
from slipway_orchestrator.worker.sources import Callee

_INDICES = "[]"


class Children:
    """Begins child runs, and takes what comes of them."""

    def __init__(self, held: Held, definition: Definition, decider: Workflow) -> None:
        self._held = held
        self._definition = definition
        self._decider = decider

    async def spawn(
        self,
        at: Instance,
        value: JsonValue,
        attempt: int,
        occurrence: int,
        approval_id: str | None,
        *,
        tainted: bool,
    ) -> None:
        """Begin a child run with this input, or note why not."""
        held, call = self._held, at.step.call
        if not isinstance(call, AgentCall):
            raise TypeError(f"step {at.key} calls no agent")
        if held.state.started is None:
            raise ValueError("a journal begins with run.started")
        if held.state.started.depth >= MAX_DEPTH:
            held.add(_refused(at, attempt, "TOO_DEEP", f"a run may have at most {MAX_DEPTH} runs above it"))
            return
        callee = await held.tools.sources.callee(held.lease.run, call.name, call.version)
        wrong = self._wrong(callee, call, value)
        if wrong is not None or callee.definition is None:
            held.add(_refused(at, attempt, *(wrong or ("AGENT_NOT_FOUND", f"there is no agent {call.name}"))))
            return
        child = self._child(at, held.state.started, callee, callee.definition, value, tainted=tainted)
        held.committer.entry.children.append(child)
        if held.state.started.depth == 0:
            held.committer.entry.tree_limits = limits_of(held.state, self._definition)
        held.add(
            StepStarted(
                at.key,
                at.step.type,
                attempt,
                value,
                occurrence,
                approval_id,
                child_run_id=child.identity.run_id,
                tainted=tainted or None,
            )
        )

    def ended(self, item: InboxItem) -> Event | None:
        """What a child's end means for its step; None for a child that is not waited for any more."""
        body, key = item.body, str(item.body["step_id"])
        step_id, bracket, rest = key.partition("[")
        known, step = self._held.state.steps.get(key), self._decider.find(self._held.state, step_id)
        if known is None or step is None or known.phase is not Phase.STARTED:
            return None
        if known.child_run_id != body["child_run_id"]:
            return None
        indices = tuple(int(index) for index in (bracket + rest).strip(_INDICES).split("][") if index)
        at = Instance(step, key, indices)
        if body["state"] == "SUCCEEDED":
            tainted = bool(body.get("tainted")) or known.input_tainted
            return StepCompleted(key, step.type, body.get("output"), attempt=known.attempt, tainted=tainted or None)
        error = body.get("error")
        code, message = "CHILD_CANCELLED", f"run {known.child_run_id} was cancelled"
        if isinstance(error, dict):
            code, message = str(error["code"]), f"run {known.child_run_id} failed: {error['message']}"
        perform = Perform(at, known.attempt, known.occurrence, known.input, None)
        return came_to(self._held.lease, perform, AttemptFailed(Failure(code, "", message, False)))

    def bound_by(self, event: Event) -> None:
        """Limits that are raised at the root are raised for all runs of the tree."""
        held = self._held
        is_root = held.state.started is not None and held.state.started.depth == 0
        if isinstance(event, LimitsRaised) and is_root and held.lease.has_children:
            held.committer.entry.tree_limits = limits_of(held.state, self._definition)

    def given_up_by(self, event: Event) -> None:
        """Cancel the children within a step that failed."""
        if not isinstance(event, StepFailed) or event.type not in CONTAINERS:
            return
        step_id, bracket, rest = event.step_id.partition("[")
        indices = tuple(int(index) for index in (bracket + rest).strip(_INDICES).split("][") if index)
        step = self._decider.find(self._held.state, step_id)
        if step is None:
            return
        within = Within(Instance(step, event.step_id, indices))
        for key, known in self._held.state.steps.items():
            if known.phase is Phase.STARTED and known.child_run_id is not None and key in within:
                self._held.committer.entry.abandoned.append(known.child_run_id)

    def _wrong(self, callee: Callee, call: AgentCall, value: JsonValue) -> tuple[str, str] | None:
        """Code and message of what is in the way."""
        run = self._held.lease.run
        if callee.fault is not None:
            return callee.fault
        decision = self._held.tools.policy.decide(run.caller, "StartAgent", agent_resource(run.tenant, call.name))
        if not decision.allowed:
            return "PERMISSION_DENIED", f"{run.subject} may not start {call.name}"
        schema = callee.definition.input_schema if callee.definition else {}
        found = violations(json.dumps(dict(schema)), value)
        if found:
            path, message = found[0]
            return "INPUT_INVALID", f"{'input.' + path if path else 'input'}: {message}"
        return None

    def _child(
        self,
        at: Instance,
        parent: RunStarted,
        callee: Callee,
        definition: Definition,
        value: JsonValue,
        *,
        tainted: bool,
    ) -> NewChild:
        lease, version = self._held.lease, callee.version
        run, run_id = lease.run, new_id("run")
        root = parent.root_run_id or run.run_id
        started = RunStarted(
            agent=callee.name,
            version=version,
            digest=callee.digest,
            caller=parent.caller,
            proposer=parent.proposer,
            input=value,
            labels=parent.labels,
            priority=parent.priority,
            parent_run_id=run.run_id,
            parent_step=at.key,
            root_run_id=root,
            depth=parent.depth + 1,
            worker_pool=definition.scheduling.worker_pool or None,
            tainted=tainted or None,
        )
        identity = RunIdentity(
            run_id=run_id,
            tenant=run.tenant,
            agent=callee.name,
            version=version,
            digest=callee.digest,
            subject=run.subject,
            caller=_acting(run.caller, f"{callee.name}@{version}", run_id),
            traceparent=run.traceparent,
            trace_id=run.trace_id,
            session_id="",
        )
        place = Place(root_run_id=root, parent_run_id=run.run_id, parent_step=at.key, depth=parent.depth + 1)
        return NewChild(
            identity=identity,
            started=started,
            place=place,
            worker_pool=definition.scheduling.worker_pool,
            journal_version=SCHEMA_VERSION,  # only workers that tell parents of their children's ends may take it
            time=lease.now(),
            agent_concurrency=definition.scheduling.concurrency,
        )


def _acting(caller: Caller, act: str, run_id: str) -> Caller:
    return Caller(
        subject=caller.subject,
        tenant=caller.tenant,
        kind=caller.kind,
        roles=caller.roles,
        groups=caller.groups,
        act=act,
        run_id=run_id,
        token_id=caller.token_id,
        expires_at=caller.expires_at,
        name=caller.name,
        owner=caller.owner,
    )


def _refused(at: Instance, attempt: int, code: str, message: str) -> StepFailed:
    return failed(at, attempt - 1, code, message, escalate=True)
