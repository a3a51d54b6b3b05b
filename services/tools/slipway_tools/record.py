"""The audit record of a call: what was asked for, under which permission, what came of it, and where it went."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from slipway_chassis import jcs
from slipway_chassis.caller import Caller
from slipway_chassis.effects import EffectKeyLike
from slipway_chassis.evidence import Evidence
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import connection
from slipway_chassis.telemetry import current_trace_id

from slipway_tools.result import ToolResult
from slipway_tools.tool import Tool

if TYPE_CHECKING:
    from slipway_tools.invocation import Approval

_WHOLE_OUTPUT = 256 * 1024  # longer ones are recorded by size and digest


@dataclass(frozen=True)
class RecordRef:
    """Points at the audit event of a call."""

    event_id: str
    commitment: str


@dataclass(frozen=True)
class Taint:
    """What of a call came from outside, or derives from what did."""

    arguments: bool
    output: bool


@dataclass(frozen=True)
class CallRecord:
    """What is known of a call before it is made."""

    tool: Tool
    arguments: dict[str, Any]
    arguments_digest: str
    effect: EffectKeyLike | None
    approval: "Approval | None"
    permission: PolicyDecision
    taint: Taint


class Recorder:
    """Writes audit events of calls, encrypted under the caller's subject."""

    def __init__(self, pool: Any, evidence: Evidence) -> None:
        self._pool = pool
        self._evidence = evidence

    async def record_result(self, caller: Caller, call: CallRecord, result: ToolResult, duration_ms: int) -> RecordRef:
        """Commit the event `tool.call` of a call that was made."""
        return await self._record(caller, call, {"duration_ms": duration_ms, **_outcome(result)})

    async def record_uncertain(self, caller: Caller, call: CallRecord, duration_ms: int, why: str) -> RecordRef:
        """Commit the event of a call of which nobody knows whether it acted."""
        return await self._record(caller, call, {"duration_ms": duration_ms, "outcome": "uncertain", "message": why})

    async def record_refusal(self, caller: Caller, call: CallRecord, reason: str, message: str) -> RecordRef:
        """Commit the event of a call that policy allowed and the rules for addresses or secrets stopped."""
        return await self._record(caller, call, {"outcome": "refused", "error": {"code": reason, "message": message}})

    async def _record(self, caller: Caller, call: CallRecord, outcome: dict[str, Any]) -> RecordRef:
        effect, declaration = call.effect, call.tool.declaration
        data: dict[str, Any] = {
            "tool": declaration.name,
            "kind": declaration.kind,
            "tool_digest": declaration.digest,
            "tool_version": call.tool.version,
            "side_effect": call.tool.side_effect,
            "arguments_tainted": call.taint.arguments,
            "output_tainted": call.taint.output,
            "arguments": jcs.canonical_json(call.arguments).decode(),
            "arguments_digest": call.arguments_digest,
            **outcome,
        }
        if effect is not None:
            data["effect"] = {"key": effect.key, "epoch": effect.epoch, "attempt": effect.attempt}
        if call.approval is not None:
            data["approval"] = {
                "approval_id": call.approval.approval_id,
                "approver": call.approval.approver,
                "arguments_digest": call.approval.arguments_digest,
            }
        sealed = self._evidence.seal(
            "tool.call",
            caller=caller,
            subject=caller.subject,
            resource=f"tool/{declaration.name}",
            data=data,
            run_id=caller.run_id or (effect.key.partition("/")[0] if effect and effect.key else None),
            policy=call.permission,
            time=datetime.now(UTC),
            trace_id=current_trace_id(),
        )
        async with connection(self._pool) as conn:  # one statement
            await self._evidence.record(conn, sealed, subject=caller.subject)
        return RecordRef(sealed.event_id, sealed.commitment)


def _outcome(result: ToolResult) -> dict[str, Any]:
    facts: dict[str, Any] = {"outcome": "failed" if result.failure else "succeeded", **result.evidence}
    if result.failure is not None:
        facts["error"] = {"code": result.failure.code, "message": result.failure.message}
    else:
        facts["output"] = _text(result.output_json)
    if result.sandbox:
        facts |= {
            "sandbox": result.sandbox,
            "exit_status": result.exit_status,
            "stdout": _text(result.stdout),
            "stderr": _text(result.stderr),
        }
    return facts


def _text(text: str) -> dict[str, Any]:
    raw = text.encode()
    known: dict[str, Any] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    return known | ({"text": text} if len(raw) <= _WHOLE_OUTPUT else {})
