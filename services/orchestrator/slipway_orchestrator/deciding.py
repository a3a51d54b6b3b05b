"""Decisions that people take at gates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.errors import FieldViolation
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.ids import new_id
from slipway_chassis.jcs import NotCanonical, canonical_json, digest
from slipway_chassis.policy import PolicyDecision, PolicyEngine
from slipway_chassis.telemetry import current_trace_id

from slipway_orchestrator.definitions.json_schema import violations
from slipway_orchestrator.errors import (
    AgentMayNotDecide,
    AlreadyVoted,
    ApprovalAlreadyDecided,
    ApprovalNotFound,
    ArgumentsChanged,
    DecisionInvalid,
    NotAnApprover,
    ProposerIsApprover,
)
from slipway_orchestrator.once import RequestKey, Transaction
from slipway_orchestrator.runs import MAX_INPUT, Approval, RunIdentity, is_approver, voter_facts
from slipway_orchestrator.store.approvals import ApprovalStore
from slipway_orchestrator.store.runs import RunStore

_SETTLED_AS = {"approve": "APPROVED", "edit": "EDITED", "reject": "REJECTED", "respond": "RESPONDED"}


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    """What a person decides."""

    approval_id: str
    decision: str
    """`approve`, `edit`, `reject` or `respond`."""
    arguments_digest: str
    """Digest of what was shown to them."""
    arguments_json: str
    message: str


class ApprovalDesk:
    """Reads approvals and settles them. The run's worker lets the decision take effect, and checks it again there."""

    def __init__(
        self,
        transaction: Transaction,
        approvals: ApprovalStore,
        runs: RunStore,
        policy: PolicyEngine,
        evidence: Evidence,
    ) -> None:
        self._transaction = transaction
        self._approvals = approvals
        self._runs = runs
        self._policy = policy
        self._evidence = evidence

    async def get(self, caller: Caller, approval_id: str) -> Approval:
        """The approval. Raises ApprovalNotFound, also for another tenant's."""
        async with self._transaction() as conn:
            approval = await self._known(conn, caller, approval_id)
        self._policy.authorize(caller, "ReadApproval", approval.resource)
        return approval

    async def page(
        self, caller: Caller, *, states: Sequence[str], run_id: str, before: str, limit: int
    ) -> tuple[list[Approval], str]:
        """Approvals that the caller may read, newest first, and the id after which to go on ("": end)."""
        found: list[Approval] = []
        while True:
            async with self._transaction() as conn:
                page = await self._approvals.page(
                    conn, caller.tenant, states=states, run_id=run_id, before=before, limit=limit + 1
                )
            for approval in page[:limit]:
                before = approval.approval_id
                if self._policy.decide(caller, "ReadApproval", approval.resource).allowed:
                    found.append(approval)
                    if len(found) == limit:
                        return found, before if approval is not page[-1] else ""
            if len(page) <= limit:
                return found, ""

    async def decide(self, caller: Caller, request: DecisionRequest, key: RequestKey) -> Approval:
        """Settle a pending approval and wake its run. Who comes second gets ApprovalAlreadyDecided."""

        async def produce(conn: Any) -> bytes:
            await self._decide(conn, caller, request)
            return b""

        async with self._transaction() as conn:
            await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
            return await self._known(conn, caller, request.approval_id)

    async def _decide(self, conn: Any, caller: Caller, request: DecisionRequest) -> None:
        approval = await self._known(conn, caller, request.approval_id)
        policy = self._authorize(caller, approval)
        # The run's row is locked before the approval's, as its worker does.
        run = await self._runs.lock(conn, caller.tenant, approval.run_id)
        if run is None or run.ended:
            raise ApprovalAlreadyDecided("the run has ended")
        if approval.state != "PENDING" or approval.expire_time <= datetime.now(UTC):
            raise _settled(approval)
        if request.arguments_digest != approval.arguments_digest:
            raise ArgumentsChanged(
                "arguments_digest is not the digest of what is to be approved; look at it again",
                metadata={"arguments_digest": approval.arguments_digest},
            )
        arguments = _check(approval, request)
        votes = await self._vote(conn, caller, approval, request)
        if request.decision == "approve" and votes < approval.quorum:
            record = await self._record(conn, caller, approval, request, arguments, policy, votes)
            await self._tell(conn, run.identity, approval, request, caller, arguments, record, votes)
            return
        done = await self._approvals.settle(
            conn,
            approval,
            state=_SETTLED_AS[request.decision],
            decider=caller.subject,
            message=request.message,
            arguments=arguments,
        )
        if not done:
            raise _settled(approval)
        record = await self._record(conn, caller, approval, request, arguments, policy, votes)
        await self._tell(conn, run.identity, approval, request, caller, arguments, record, votes)

    async def _vote(self, conn: Any, caller: Caller, approval: Approval, request: DecisionRequest) -> int:
        """Approvals with this one, where it takes several; else 0. Raises AlreadyVoted."""
        if request.decision != "approve" or approval.quorum == 1:
            return 1 if request.decision == "approve" else 0
        if not await self._approvals.vote(conn, approval, caller, request.message):
            raise AlreadyVoted(f"{caller.person} has approved this already; it takes {approval.quorum} persons")
        return len(approval.votes) + 1

    async def _tell(
        self,
        conn: Any,
        run: RunIdentity,
        approval: Approval,
        request: DecisionRequest,
        caller: Caller,
        arguments: JsonValue,
        record: dict[str, JsonValue],
        votes: int,
    ) -> None:
        """Hand the decision to the run's worker, with everybody who approved: it looks at all of them again."""
        body: dict[str, JsonValue] = {
            "approval_id": approval.approval_id,
            "step_id": approval.step_id,
            "decision": request.decision,
            "arguments_digest": approval.arguments_digest,
            **voter_facts(caller),
            "arguments": arguments,
            "message": request.message,
            "record": record,
        }
        if approval.quorum > 1 and request.decision == "approve":
            body |= {
                "votes": votes,
                "quorum": approval.quorum,
                "others": [voter_facts(vote.voter) for vote in approval.votes],
            }
        await self._runs.put_in_inbox(conn, run, "decision", body)
        await self._runs.wake(conn, run, new_id("wake"))

    def _authorize(self, caller: Caller, approval: Approval) -> PolicyDecision:
        if caller.act is not None:
            raise AgentMayNotDecide("an agent acting for a user may not decide approvals")
        if caller.person == approval.proposer:
            raise ProposerIsApprover(f"{caller.person} proposed this; somebody else must decide")
        if not is_approver(caller, approval.approvers):
            raise NotAnApprover(f"only {', '.join(approval.approvers)} may decide this")
        return self._policy.authorize(caller, "DecideApproval", approval.resource)

    async def _known(self, conn: Any, caller: Caller, approval_id: str) -> Approval:
        approval = await self._approvals.get(conn, caller.tenant, approval_id)
        if approval is None:
            raise ApprovalNotFound(f"there is no approval {approval_id}")
        return approval

    async def _record(
        self,
        conn: Any,
        caller: Caller,
        approval: Approval,
        request: DecisionRequest,
        arguments: JsonValue,
        policy: PolicyDecision,
        votes: int,
    ) -> dict[str, JsonValue]:
        data: dict[str, JsonValue] = {
            "approval_id": approval.approval_id,
            "step_id": approval.step_id,
            "decision": request.decision,
            "arguments_digest": approval.arguments_digest,
            "proposer": approval.proposer,
            "message": request.message,
        }
        if approval.quorum > 1:
            data |= {"votes": votes, "quorum": approval.quorum}
        if request.decision in ("edit", "respond"):
            data["decided_arguments_digest"] = digest(arguments)
        sealed = self._evidence.seal(
            "approval.decision",
            caller=caller,
            subject=approval.subject,
            resource=f"approval:{approval.approval_id}",
            data=data,
            time=datetime.now(UTC),
            run_id=approval.run_id,
            policy=policy,
            trace_id=current_trace_id(),
        )
        await self._evidence.record(conn, sealed, subject=approval.subject)
        return {"event_id": sealed.event_id, "commitment": sealed.commitment}


def _check(approval: Approval, request: DecisionRequest) -> JsonValue:
    """The new arguments or the answer. Raises DecisionInvalid that names the field."""
    if request.decision not in _SETTLED_AS:
        raise DecisionInvalid("must be approve, edit, reject or respond", field="decision")
    if request.decision == "reject" and not request.message.strip():
        raise DecisionInvalid("a rejection needs a reason", field="message")
    if len(request.message) > 4000:
        raise DecisionInvalid("must have at most 4000 characters", field="message")
    if request.decision in ("approve", "reject"):
        if request.arguments_json:
            raise DecisionInvalid(f"{request.decision} takes no arguments; use edit or respond", field="arguments")
        return None
    if request.decision == "edit" and not approval.tool:
        raise DecisionInvalid("there are no arguments to edit: nothing but a person acts here", field="decision")
    try:
        if len(request.arguments_json.encode()) > MAX_INPUT:
            raise DecisionInvalid(f"must have at most {MAX_INPUT} bytes", field="arguments")
        value: JsonValue = json.loads(request.arguments_json)
        canonical_json(value)
    except (ValueError, RecursionError, NotCanonical) as error:
        raise DecisionInvalid(f"is no JSON that can be kept exactly: {error}", field="arguments") from error
    if request.decision == "edit":
        if digest(value) == approval.arguments_digest:
            raise DecisionInvalid("these are the same arguments; use approve", field="arguments")
        wrong = violations(approval.arguments_schema, value)
        if wrong:
            found = [FieldViolation(f"arguments.{path}" if path else "arguments", message) for path, message in wrong]
            raise DecisionInvalid(f"the arguments do not fit the tool: {found[0].message}", violations=found)
    return value


def _settled(approval: Approval) -> ApprovalAlreadyDecided:
    by = f" by {approval.decider}" if approval.decider else ""
    state = "EXPIRED" if approval.state == "PENDING" else approval.state
    return ApprovalAlreadyDecided(f"approval {approval.approval_id} is {state}{by} already", metadata={"state": state})
