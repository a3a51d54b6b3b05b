"""One call's dealings with the proxy: who calls, what was asked for, how much of the limits is left."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from slipway_chassis.caller import Caller

from slipway_tools.egress.rules import EgressLimits, ToolRules
from slipway_tools.sandbox.metrics import EGRESS_REQUESTS

Record = Callable[["EgressCall", dict[str, Any]], Awaitable[None]]


@dataclass
class EgressCall:
    """A call of a tool while its program runs. `rules` is asked at every request: a change takes effect at once."""

    caller: Caller
    tool: str
    run_id: str
    rules: Callable[[], ToolRules | None]
    record: Record
    requests: int = 0
    sent: int = 0
    received: int = 0
    refusals: list[str] = field(default_factory=list[str])

    async def note(self, outcome: str, **facts: Any) -> None:
        """Commit a request to the audit trail, before its answer is handed on; raises when that fails."""
        EGRESS_REQUESTS.labels(outcome).inc()
        await self.record(self, {"tool": self.tool, "outcome": outcome, **facts})

    def limit_reached(self, limits: EgressLimits) -> str | None:
        """The limit that the call is beyond, or None."""
        if self.requests > limits.requests:
            return "requests"
        if self.sent > limits.request_bytes:
            return "request_bytes"
        if self.received > limits.response_bytes:
            return "response_bytes"
        return None
