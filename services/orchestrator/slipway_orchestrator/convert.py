"""Between the domain and its protobuf messages: the only crossing."""

import json
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import JsonValue
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.money import to_money

from slipway_orchestrator.agents import Agent, AgentVersion
from slipway_orchestrator.runs import Approval, JournalRow, Run

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
    )


def run_message(run: Run, *, whole: bool = True) -> runs_pb2.Run:
    """A run; without input and output unless `whole`."""
    own = run.identity
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
        caller=own.subject,
        labels=dict(run.labels),
        session_id=own.session_id,
        create_time=to_timestamp(run.create_time),
        update_time=to_timestamp(run.update_time),
        end_time=to_timestamp(run.end_time),
        last_seq=run.last_seq,
        trace_id=own.trace_id,
        pending_approval_ids=run.pending_approval_ids,
    )
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
    )


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
