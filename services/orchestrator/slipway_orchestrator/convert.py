"""Between the domain and its protobuf messages: the only crossing."""

import json
from datetime import datetime
from typing import Literal

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import JsonValue
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.money import from_money, to_money

from slipway_orchestrator.agents import Agent, AgentVersion
from slipway_orchestrator.core.events import Event, encode, step_of
from slipway_orchestrator.raising import NewLimits
from slipway_orchestrator.replaying import Outcome
from slipway_orchestrator.runs import Approval, JournalRow, Run, RunDetails, Vote
from slipway_orchestrator.suspension import Suspension

_NO_DETAILS = RunDetails()
_DECISIONS = {
    runs_pb2.DECISION_APPROVE: "approve",
    runs_pb2.DECISION_EDIT: "edit",
    runs_pb2.DECISION_REJECT: "reject",
    runs_pb2.DECISION_RESPOND: "respond",
}


def to_timestamp(time: datetime | None) -> Timestamp | None:
    """A time on the wire; None stays unset."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def to_json(value: JsonValue) -> str:
    """A value as JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def version_message(version: AgentVersion, *, whole: bool = True) -> agents_pb2.AgentVersion:
    """A version; without its definition unless `whole`."""
    return agents_pb2.AgentVersion(
        agent=version.agent,
        version=version.version,
        digest=version.digest,
        state=agents_pb2.AgentVersionState.Value(f"AGENT_VERSION_STATE_{version.state}"),
        definition_yaml=version.source if whole else "",
        author=version.author,
        submitter=version.submitter,
        reviewer=version.reviewer,
        review_message=version.review_message,
        create_time=to_timestamp(version.create_time),
        update_time=to_timestamp(version.update_time),
        in_production=version.in_production,
    )


def agent_message(agent: Agent) -> agents_pb2.Agent:
    """An agent."""
    return agents_pb2.Agent(
        agent=agent.name,
        description=agent.description,
        labels=dict(agent.labels),
        production_version=agent.production_version,
        latest_version=agent.latest_version,
        create_time=to_timestamp(agent.create_time),
        update_time=to_timestamp(agent.update_time),
        suspension=suspension_message(agent.suspension) if agent.suspension is not None else None,
    )


def suspension_message(suspension: Suspension) -> agents_pb2.Suspension:
    """A kill switch that is pulled."""
    return agents_pb2.Suspension(
        scope=agents_pb2.SuspensionScope.Value(f"SUSPENSION_SCOPE_{suspension.scope.name}"),
        reason=suspension.reason,
        suspended_by=suspension.suspended_by,
        create_time=to_timestamp(suspension.create_time),
    )


def run_message(run: Run, *, whole: bool = True, details: RunDetails = _NO_DETAILS) -> runs_pb2.Run:
    """A run; without input and output unless `whole`."""
    own, place, pause = run.identity, run.place, details.pause
    message = runs_pb2.Run(
        run_id=own.run_id,
        agent=own.agent,
        version=own.version,
        digest=own.digest,
        state=runs_pb2.RunState.Value(f"RUN_STATE_{run.state}"),
        input_json=to_json(run.input) if whole else "",
        output_json=to_json(run.output) if whole and run.state == "SUCCEEDED" else "",
        usage=runs_pb2.RunUsage(
            steps=run.steps,
            input_tokens=run.input_tokens,
            output_tokens=run.output_tokens,
            cost=to_money(run.cost_usd),
        ),
        caller=own.caller.subject,
        labels=dict(run.labels),
        session_id=own.session_id,
        create_time=to_timestamp(run.create_time),
        update_time=to_timestamp(run.update_time),
        end_time=to_timestamp(run.end_time),
        last_seq=run.last_seq,
        trace_id=own.trace_id,
        pending_approval_ids=run.pending_approval_ids,
        parent_run_id=place.parent_run_id,
        parent_step=place.parent_step,
        root_run_id=place.root_run_id,
        depth=place.depth,
        child_run_ids=details.children,
        schedule=place.schedule,
        priority=run.priority,
        not_before=to_timestamp(run.not_before),
        output_tainted=details.output_tainted,
    )
    if place.forked_from is not None:
        message.forked_from.CopyFrom(runs_pb2.ForkPoint(run_id=place.forked_from[0], seq=place.forked_from[1]))
    if pause is not None:
        message.pause.CopyFrom(runs_pb2.Pause(code=pause.code, reason=pause.reason, time=to_timestamp(pause.time)))
    if run.error is not None:
        message.error.CopyFrom(runs_pb2.RunError(**run.error))
    return message


def event_message(row: JournalRow) -> runs_pb2.RunEvent:
    """A row of the journal."""
    return runs_pb2.RunEvent(
        seq=row.seq,
        time=to_timestamp(row.time),
        kind=row.kind,
        step_id=row.step_id or "",
        data_json=to_json(dict(row.data)),
    )


def approval_message(approval: Approval) -> runs_pb2.Approval:
    """An approval."""
    return runs_pb2.Approval(
        approval_id=approval.approval_id,
        run_id=approval.run_id,
        step_id=approval.step_id,
        agent_version=f"{approval.agent}@{approval.version}",
        state=runs_pb2.ApprovalState.Value(f"APPROVAL_STATE_{approval.state}"),
        tool=approval.tool,
        arguments_json=to_json(approval.arguments),
        arguments_digest=approval.arguments_digest,
        approvers=approval.approvers,
        proposer=approval.proposer,
        create_time=to_timestamp(approval.create_time),
        expire_time=to_timestamp(approval.expire_time),
        decider=approval.decider,
        decide_time=to_timestamp(approval.decide_time),
        message=approval.message,
        decided_arguments_json=(
            to_json(approval.decided_arguments) if approval.state in ("EDITED", "RESPONDED") else ""
        ),
        quorum=approval.quorum,
        votes=[_vote_message(vote) for vote in approval.votes],
        reminders=approval.reminders,
        next_reminder_time=to_timestamp(approval.next_reminder_time),
        reason=approval.reason,
        escalation=approval.escalation,
    )


def _vote_message(vote: Vote) -> runs_pb2.ApprovalVote:
    return runs_pb2.ApprovalVote(decider=vote.voter.subject, time=to_timestamp(vote.time), message=vote.message)


def new_limits(limits: runs_pb2.RunLimits) -> NewLimits:
    """Limits that somebody sets. InvalidArgument for money in another currency."""
    return NewLimits(
        steps=limits.steps if limits.HasField("steps") else None,
        tokens=limits.tokens if limits.HasField("tokens") else None,
        cost_usd=from_money(limits.cost, field="limits.cost") if limits.HasField("cost") else None,
        wall_time=limits.wall_time.ToTimedelta().total_seconds() if limits.HasField("wall_time") else None,
        tool_errors=limits.tool_errors if limits.HasField("tool_errors") else None,
        repeats=limits.repeats if limits.HasField("repeats") else None,
    )


def replay_message(outcome: Outcome) -> runs_pb2.ReplayRunResponse:
    """How a replay went."""
    found = outcome.difference
    response = runs_pb2.ReplayRunResponse(same=found is None, events=outcome.events)
    if found is not None:
        response.difference.CopyFrom(
            runs_pb2.ReplayDifference(
                seq=found.seq,
                step_id=step_of(found.journalled) or "",
                journalled_json=_event_json(found.journalled),
                decided_json=_event_json(found.decided) if found.decided is not None else "",
                message=found.message,
            )
        )
    return response


def _event_json(event: Event) -> str:
    return to_json({"kind": event.kind, "step_id": step_of(event), "data": encode(event)})


def wide_scope(scope: agents_pb2.SuspensionScope.ValueType) -> Literal["TENANT", "ALL"]:
    """TENANT or ALL. InvalidArgument for any other scope."""
    match scope:
        case agents_pb2.SUSPENSION_SCOPE_TENANT:
            return "TENANT"
        case agents_pb2.SUSPENSION_SCOPE_ALL:
            return "ALL"
        case _:
            raise InvalidArgument("must be TENANT or ALL", field="scope")


def run_state(state: runs_pb2.RunState.ValueType) -> str:
    """The domain's name of a state. InvalidArgument for one that is never sent."""
    if state == runs_pb2.RUN_STATE_UNSPECIFIED or state not in runs_pb2.RunState.values():
        raise InvalidArgument("is no state", field="states")
    return runs_pb2.RunState.Name(state).removeprefix("RUN_STATE_")


def approval_state(state: runs_pb2.ApprovalState.ValueType) -> str:
    """The domain's name of a state. InvalidArgument for one that is never sent."""
    if state == runs_pb2.APPROVAL_STATE_UNSPECIFIED or state not in runs_pb2.ApprovalState.values():
        raise InvalidArgument("is no state", field="states")
    return runs_pb2.ApprovalState.Name(state).removeprefix("APPROVAL_STATE_")


def decision(value: runs_pb2.Decision.ValueType) -> str:
    """The domain's name of a decision; "" for one that is never sent."""
    return _DECISIONS.get(value, "")
