"""Models and routes: what there is, how one is chosen, how two compare."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from slipway_client.models import Record
from slipway_client.transport import Transport, listed, read, route


class RouteCandidate(Record):
    """One model that was looked at."""

    model: str
    eligible: bool
    reason: str
    hurdle: str | None = None
    score: float | None = None
    expected_cost_usd: float | None = None
    latency_ms: float | None = None


class RouteDecision(Record):
    """Which candidates a request may go to, in order, those left out last."""

    route: str | None
    policy: str | None = None
    task: str | None = None
    task_source: str | None = None
    catalogue_digest: str
    candidates: list[RouteCandidate]


class SentDecision(Record):
    """The decision on a request that was sent, and what came of it."""

    request_id: str
    decision: RouteDecision
    attempts: list[Record]
    outcome: str


class Comparison(Record):
    """Recorded requests, answered anew: `calls`, and the sums of both sides."""

    calls: list[Record]
    recorded: Record
    replayed: Record
    mean_text_similarity: float
    same_tool_calls: float
    note: str | None = None


class Models:
    """`/v1/models` and `/v1/chat/completions`; any OpenAI SDK does for chat, too."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Record]:
        """Models and routes that the caller may use."""
        return [read(Record, one) for one in listed(self._transport.call("GET", route("models")), "data")]

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """One chat completion, in OpenAI's wire format."""
        return self._transport.call("POST", route("chat", "completions"), json=body, timeout=300)

    def explain(
        self,
        *,
        model: str = "",
        text: str = "",
        task: str = "",
        quality: str | None = None,
        max_cost_usd: Decimal | None = None,
        max_latency_ms: int | None = None,
        regions: Sequence[str] | None = None,
        data_classes: Sequence[str] = (),
        capabilities: Sequence[str] = (),
        session_id: str = "",
        max_tokens: int | None = None,
    ) -> RouteDecision:
        """Where a request of one message would go and why; nothing is sent. `regions` None demands none."""
        demands: dict[str, Any] = {
            "task": task or None,
            "quality": quality,
            "max_cost_usd": None if max_cost_usd is None else str(max_cost_usd),
            "max_latency_ms": max_latency_ms,
            "regions": None if regions is None else [*regions],
            "data_classes": [*data_classes] or None,
            "capabilities": [*capabilities] or None,
            "session_id": session_id or None,
        }
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": text}] if text else [],
            "slipway": {name: value for name, value in demands.items() if value is not None},
        }
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        return read(RouteDecision, self._transport.call("POST", route("models", "explain"), json=body))

    def decision(self, request_id: str) -> SentDecision:
        """How the model of the call with this `x-slipway-request-id` was chosen, and how its attempts went."""
        return read(SentDecision, self._transport.call("GET", route("usage", request_id, "routing")))

    def compare(
        self, against: str, *, recorded_on: str = "", limit: int = 20, max_cost_usd: Decimal = Decimal(1)
    ) -> Comparison:
        """The newest requests that the route `recorded_on` has recorded (empty: any route), answered anew by `against`:
        calls of yours that cost up to `max_cost_usd` dollars."""
        body = {"against": against, "route": recorded_on, "limit": limit, "max_cost_usd": str(max_cost_usd)}
        return read(Comparison, self._transport.call("POST", route("models", "compare"), json=body, timeout=310))
