"""What the audit log holds of MCP servers, their tools and logins: who, where, for what; never a token."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.telemetry import current_trace_id


class McpLog:
    """Records events in the transaction of the change."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    async def record(
        self,
        conn: Any,
        caller: Caller,
        kind: str,
        server: str,
        data: Mapping[str, Any],
        permission: PolicyDecision | None = None,
    ) -> None:
        """One event about a server."""
        sealed = self._evidence.seal(
            kind,
            caller=caller,
            subject=caller.subject,
            resource=f"mcp-server/{server}",
            data=data,
            run_id=caller.run_id,
            policy=permission,
            time=datetime.now(UTC),
            trace_id=current_trace_id(),
        )
        await self._evidence.record(conn, sealed, subject=caller.subject)
