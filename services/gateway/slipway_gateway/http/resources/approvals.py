"""Approvals."""

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue
from slipway.runs.v1 import runs_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Page, Resource, json_of, state_name, time_of

DECISIONS = {
    "approve": pb.DECISION_APPROVE,
    "edit": pb.DECISION_EDIT,
    "reject": pb.DECISION_REJECT,
    "respond": pb.DECISION_RESPOND,
}


class ApprovalVote(Resource):
    """One of several approvals."""

    decider: str
    time: datetime | None
    message: str | None


class Approval(Resource):
    """A gate in a run."""

    approval_id: str
    run_id: str
    step_id: str
    agent_version: str
    state: str = Field(
        description="`PENDING`, `APPROVED`, `EDITED`, `REJECTED`, `RESPONDED`, `EXPIRED` or `CANCELLED`."
    )
    tool: str | None = Field(description="Tool that would act; null for a gate by itself.")
    arguments: JsonValue = Field(description="The exact arguments, or what is shown.")
    arguments_digest: str = Field(description="Send it back with the decision: it binds it to what was shown.")
    approvers: list[str]
    proposer: str
    create_time: datetime | None
    expire_time: datetime | None
    decider: str | None
    decide_time: datetime | None
    message: str | None
    decided_arguments: JsonValue = Field(None, description="Arguments after an edit, or the response.")
    quorum: int = Field(description="Persons who must approve.")
    votes: list[ApprovalVote] = Field(description="Approvals so far, where it takes several.")
    reminders: int = Field(description="Reminders so far.")
    next_reminder_time: datetime | None
    reason: str | None = Field(description="Why it is asked (again), where the definition alone does not say it.")
    escalation: bool = Field(
        description="The step failed: approve tries it again, respond uses the answer, reject fails the run."
    )


class ApprovalPage(Page):
    """A page of approvals, newest first."""

    approvals: list[Approval]


class DecideApproval(Command):
    """What a person decides."""

    decision: Literal["approve", "edit", "reject", "respond"]
    arguments_digest: str = Field(min_length=1, max_length=100, description="As it was shown; another one is 409.")
    arguments: JsonValue = Field(None, description="New arguments (edit) or the answer (respond).")
    message: str = Field("", max_length=4000, description="Why; required to reject.")


def approval(message: pb.Approval) -> Approval:
    """Converts an approval."""
    return Approval(
        approval_id=message.approval_id,
        run_id=message.run_id,
        step_id=message.step_id,
        agent_version=message.agent_version,
        state=state_name(pb.ApprovalState.Name(message.state), "APPROVAL_STATE_"),
        tool=message.tool or None,
        arguments=json_of(message.arguments_json),
        arguments_digest=message.arguments_digest,
        approvers=list(message.approvers),
        proposer=message.proposer,
        create_time=time_of(message, "create_time"),
        expire_time=time_of(message, "expire_time"),
        decider=message.decider or None,
        decide_time=time_of(message, "decide_time"),
        message=message.message or None,
        decided_arguments=json_of(message.decided_arguments_json),
        quorum=message.quorum or 1,
        votes=[
            ApprovalVote(decider=vote.decider, time=time_of(vote, "time"), message=vote.message or None)
            for vote in message.votes
        ],
        reminders=message.reminders,
        next_reminder_time=time_of(message, "next_reminder_time"),
        reason=message.reason or None,
        escalation=message.escalation,
    )
