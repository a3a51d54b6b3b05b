"""Whole answers, and their form in the effect ledger."""

import base64
import json
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from slipway_router.chat import (
    Record,
    Routing,
    Spent,
    StreamEvent,
    StreamFinished,
    StreamStarted,
    TextDelta,
    ToolCall,
)
from slipway_router.tokens import TokenCount


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A whole answer with what it cost."""

    content: str | None
    tool_calls: tuple[ToolCall, ...]
    refusal: str
    finish_reason: str
    model: str
    catalogue_model: str
    spent: Spent
    attempts: int
    request_id: str
    record: Record
    create_time: datetime
    routing: Routing

    def encode(self) -> bytes:
        """The answer as JSON for the ledger."""
        fields = asdict(self)
        fields["spent"]["cost"] = str(self.spent.cost)
        fields["create_time"] = self.create_time.isoformat()
        return json.dumps(fields).encode()

    @staticmethod
    def decode(raw: bytes) -> "ChatAnswer":
        """The answer that `encode` wrote."""
        fields: dict[str, Any] = json.loads(raw)
        fields["tool_calls"] = tuple(ToolCall(**call) for call in fields["tool_calls"])
        fields["spent"] = _spent(fields["spent"])
        fields["record"] = Record(**fields["record"])
        fields["routing"] = Routing(**fields["routing"])
        fields["create_time"] = datetime.fromisoformat(fields["create_time"])
        return ChatAnswer(**fields)

    def replay(self) -> Iterator[StreamEvent]:
        """The answer as the events of a stream, its text in one delta."""
        yield StreamStarted(
            self.model, self.catalogue_model, self.attempts, self.request_id, self.routing, self.spent.cached
        )
        if self.content:
            yield TextDelta(self.content)
        yield from self.tool_calls
        yield StreamFinished(self.finish_reason, self.spent, self.record)


class Collected:
    """Puts the events of a stream together to the whole answer."""

    def __init__(self) -> None:
        self._started: StreamStarted | None = None
        self._finished: StreamFinished | None = None
        self._text: list[str] = []
        self._calls: list[ToolCall] = []

    def take(self, event: StreamEvent) -> None:
        """Take the next event."""
        match event:
            case StreamStarted():
                self._started = event
            case TextDelta():
                self._text.append(event.text)
            case ToolCall():
                self._calls.append(event)
            case StreamFinished():
                self._finished = event

    def whole(self) -> ChatAnswer:
        """The answer of a stream that ended; ValueError if it did not."""
        if self._started is None or self._finished is None:
            raise ValueError("the stream did not end")
        return ChatAnswer(
            content="".join(self._text) or None,
            tool_calls=tuple(self._calls),
            refusal="",
            finish_reason=self._finished.finish_reason,
            model=self._started.model,
            catalogue_model=self._started.catalogue_model,
            spent=self._finished.spent,
            attempts=self._started.attempts,
            request_id=self._started.request_id,
            record=self._finished.record,
            create_time=datetime.now(UTC),
            routing=self._started.routing,
        )


@dataclass(frozen=True, slots=True)
class EmbeddingsAnswer:
    """Vectors in the order of the inputs with what they cost."""

    values: "tuple[array[float], ...]"
    model: str
    catalogue_model: str
    spent: Spent
    request_id: str

    def encode(self) -> bytes:
        """The answer as JSON for the ledger; vectors as one block of 32-bit numbers."""
        fields = asdict(replace(self, values=()))
        block = b"".join(vector.tobytes() for vector in self.values)
        fields["values"] = {"count": len(self.values), "data": base64.b64encode(block).decode()}
        fields["spent"]["cost"] = str(self.spent.cost)
        return json.dumps(fields).encode()

    @staticmethod
    def decode(raw: bytes) -> "EmbeddingsAnswer":
        """The answer that `encode` wrote."""
        fields: dict[str, Any] = json.loads(raw)
        block = array("f", base64.b64decode(fields["values"]["data"]))
        width = len(block) // fields["values"]["count"]
        fields["values"] = tuple(block[at : at + width] for at in range(0, len(block), width))
        fields["spent"] = _spent(fields["spent"])
        return EmbeddingsAnswer(**fields)


def _spent(fields: dict[str, Any]) -> Spent:
    return Spent(
        TokenCount(**fields["tokens"]), Decimal(fields["cost"]), fields["estimated"], fields.get("cached", False)
    )
