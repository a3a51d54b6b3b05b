"""Audit events of what people do, beside the journals of runs."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.telemetry import current_trace_id

from slipway_orchestrator.runs import RunIdentity


async def record_on_run(
    conn: Any,
    evidence: Evidence,
    caller: Caller,
    run: RunIdentity,
    kind: str,
    data: Mapping[str, JsonValue],
    policy: PolicyDecision | None,
) -> dict[str, JsonValue]:
    """Record what a caller did to a run, in the transaction of the act: a reference to the record."""
    sealed = evidence.seal(
        kind,
        caller=caller,
        subject=run.subject,
        resource=f"run:{run.run_id}",
        data=data,
        time=datetime.now(UTC),
        run_id=run.run_id,
        policy=policy,
        trace_id=current_trace_id(),
        tenant=run.tenant,
    )
    await evidence.record(conn, sealed, subject=run.subject)
    return {"event_id": sealed.event_id, "commitment": sealed.commitment}


async def record(
    conn: Any,
    evidence: Evidence,
    caller: Caller,
    resource: str,
    kind: str,
    data: Mapping[str, JsonValue],
    policy: PolicyDecision | None,
) -> None:
    """Record what a caller did to something of the tenant's, in the transaction of the act."""
    sealed = evidence.seal(
        kind,
        caller=caller,
        subject=caller.subject,
        resource=resource,
        data=data,
        time=datetime.now(UTC),
        policy=policy,
        trace_id=current_trace_id(),
    )
    await evidence.record(conn, sealed, subject=caller.subject)
