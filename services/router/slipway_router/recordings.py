"""Recorded traffic: a share of a route's requests with their answers, kept to be answered anew by another route."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Protocol

from slipway_chassis.caller import Caller
from slipway_chassis.errors import SlipwayError
from slipway_chassis.logs import get_logger

from slipway_router.answers import ChatAnswer
from slipway_router.catalogue import Quality
from slipway_router.chat import ChatRequest, Message, Spent, ToolCall
from slipway_router.output_checks import output_checks
from slipway_router.routing import Plan

_log = get_logger(__name__)
_MOST_BYTES = 256 * 1024
"""Longer conversations are not recorded."""
_PLAIN = ("max_tokens", "temperature", "top_p", "seed", "tool_choice", "response_format", "extra")
_TUPLES = ("stop", "tools")
_SETS = ("data_classes", "capabilities")


@dataclass(frozen=True, slots=True)
class Recording:
    """A request as it was sent, with what its tenant and agent demanded of it, and the answer."""

    request: ChatRequest
    content: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str

    def encode(self) -> bytes:
        """As JSON."""
        asked = self.request
        request: dict[str, Any] = {name: getattr(asked, name) for name in (*_PLAIN, *_TUPLES)}
        request |= {name: sorted(getattr(asked, name)) for name in _SETS}
        request["messages"] = [asdict(message) for message in asked.messages]
        request["regions"] = asked.regions
        request["quality"] = int(asked.quality)
        answer = {
            "content": self.content,
            "tool_calls": [asdict(call) for call in self.tool_calls],
            "finish_reason": self.finish_reason,
        }
        return json.dumps({"request": request, "answer": answer}).encode()

    @staticmethod
    def decode(raw: bytes) -> "Recording":
        """The recording that `encode` wrote."""
        whole: dict[str, Any] = json.loads(raw)
        asked, answer = whole["request"], whole["answer"]
        checks = output_checks(
            json.dumps(asked["tools"]) if asked["tools"] else "",
            json.dumps(asked["tool_choice"]) if asked["tool_choice"] else "",
            json.dumps(asked["response_format"]) if asked["response_format"] else "",
            asked["extra"].get("parallel_tool_calls") is False,
        )
        parameters: dict[str, Any] = {name: asked[name] for name in _PLAIN}
        parameters |= {name: tuple(asked[name]) for name in _TUPLES}
        parameters |= {name: frozenset(asked[name]) for name in _SETS}
        request = ChatRequest(
            messages=tuple(_message(message) for message in asked["messages"]),
            regions=None if asked["regions"] is None else tuple(asked["regions"]),
            quality=Quality(asked["quality"]),
            checks=checks,
            **parameters,
        )
        calls = tuple(ToolCall(**call) for call in answer["tool_calls"])
        return Recording(request, answer["content"], calls, answer["finish_reason"])


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recording, and what its call came to."""

    request_id: str
    recording: Recording
    catalogue_model: str
    spent: Spent
    latency_ms: int


class RecordingStore(Protocol):
    """Where recordings are kept."""

    async def add(self, caller: Caller, request_id: str, scope: str, raw: bytes) -> None: ...
    def newest(self, tenant: str, scope: str, limit: int) -> AsyncIterator[RecordedCall]: ...


class Recorder:
    """Records the share of its calls that a route declares, beside the call and never in its way."""

    def __init__(self, store: RecordingStore, draw: Callable[[], float] = random.random) -> None:
        self._store = store
        self._draw = draw
        self._writing: set[asyncio.Task[None]] = set()

    def offer(self, caller: Caller, request: ChatRequest, plan: Plan, answer: ChatAnswer) -> None:
        """Record the call if its route says so and chance agrees."""
        route = plan.route
        if route is None or not route.record_percent or request.replay_of:
            return
        if self._draw() * 100 >= route.record_percent:
            return
        demanded = replace(request, regions=plan.demand.regions, data_classes=plan.demand.data_classes)
        recording = Recording(demanded, answer.content or "", answer.tool_calls, answer.finish_reason)
        writing = asyncio.create_task(self._write(caller, answer.request_id, route.name, recording))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def drain(self) -> None:
        """Wait for recordings that are being written."""
        await asyncio.gather(*self._writing)

    async def _write(self, caller: Caller, request_id: str, scope: str, recording: Recording) -> None:
        raw = recording.encode()
        if len(raw) > _MOST_BYTES:
            return
        try:
            await self._store.add(caller, request_id, scope, raw)
        except SlipwayError as error:
            # A sample: that one is missing harms nobody.
            _log.warning("recordings.not_written", reason=error.reason)


_MESSAGE_FIELDS = frozenset(field.name for field in fields(Message))


def _message(stored: dict[str, Any]) -> Message:
    known = {name: value for name, value in stored.items() if name in _MESSAGE_FIELDS}
    known["parts"] = tuple(known["parts"])
    known["tool_calls"] = tuple(ToolCall(**call) for call in known["tool_calls"])
    return Message(**known)
