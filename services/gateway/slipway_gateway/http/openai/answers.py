"""What OpenAI's clients get back."""

import base64
import sys
from array import array
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi.responses import JSONResponse
from slipway.router.v1 import router_pb2 as pb

from slipway_gateway.http.resources.fields import dollars, milliseconds

Json = dict[str, Any]


class JsonAnswer(JSONResponse):
    """A JSON response whose content is of our own making: text in Unicode, numbers that every reader can hold."""

    def render(self, content: Any) -> bytes:
        """The body, in UTF-8; the standard library takes longer over it."""
        return orjson.dumps(content)


def usage(message: pb.Usage) -> Json:
    """OpenAI counts cached and reasoning tokens within the totals; the router keeps the classes apart."""
    prompt = message.input_tokens + message.cached_input_tokens + message.cache_write_tokens + message.image_tokens
    completion = message.output_tokens + message.reasoning_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": message.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": message.reasoning_tokens},
        "cost_usd": dollars(message.cost),
    }


def tool_call(message: pb.ToolCall) -> Json:
    """A call of a tool."""
    function = {"name": message.name, "arguments": message.arguments_json}
    return {"id": message.id, "type": "function", "function": function}


def completion(message: pb.CreateChatCompletionResponse, completion_id: str) -> Json:
    """A whole answer."""
    answer = message.message
    content: Json = {
        "role": "assistant",
        "content": answer.content if answer.HasField("content") else None,
        "refusal": answer.refusal or None,
    }
    if answer.tool_calls:
        content["tool_calls"] = [tool_call(call) for call in answer.tool_calls]
    return {
        "id": completion_id,
        "object": "chat.completion",
        "created": message.create_time.seconds,
        "model": message.model,
        "choices": [{"index": 0, "message": content, "finish_reason": message.finish_reason, "logprobs": None}],
        "usage": usage(message.usage),
    }


class Chunks:
    """The chunks of one stream. With `include_usage` every chunk has a `usage`, null but in the last."""

    def __init__(self, completion_id: str, created: int, started: pb.StreamStarted, *, include_usage: bool) -> None:
        self._head: Json = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": started.model,
        }
        self._usage: Json = {"usage": None} if include_usage else {}
        self._tool_calls = 0

    def role(self) -> Json:
        """The first chunk."""
        return self._delta({"role": "assistant", "content": ""})

    def content(self, text: str) -> Json:
        """A piece of text."""
        return self._delta({"content": text})

    def tool_call(self, message: pb.ToolCall) -> Json:
        """A whole call of a tool."""
        index = self._tool_calls
        self._tool_calls += 1
        return self._delta({"tool_calls": [{"index": index, **tool_call(message)}]})

    def finish(self, reason: str) -> Json:
        """The end of the text."""
        return self._delta({}, reason)

    def total(self, message: pb.Usage) -> Json:
        """The usage chunk."""
        return {**self._head, "choices": [], "usage": usage(message)}

    def _delta(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**self._head, "choices": [choice], **self._usage}


def embeddings(message: pb.CreateEmbeddingsResponse, encoding: str) -> Json:
    """Vectors, as lists or as base64 of little-endian float32 (what the SDK asks for by itself)."""
    encode = _base64 if encoding == "base64" else list
    tokens = message.usage.input_tokens + message.usage.cached_input_tokens
    return {
        "object": "list",
        "model": message.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(item.values)}
            for index, item in enumerate(message.embeddings)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "cost_usd": dollars(message.usage.cost)},
    }


def _base64(values: Sequence[float]) -> str:
    floats = array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode("ascii")


def model(message: pb.Model) -> Json:
    """An entry of the catalogue; what OpenAI has no field for stands under `slipway`."""
    return {
        "id": message.name,
        "object": "model",
        "created": 0,
        "owned_by": message.provider or "slipway",
        "slipway": {
            "kind": message.kind,
            "route": message.route,
            "tasks": list(message.tasks),
            "regions": list(message.regions),
            "health": message.health,
            **(_of_route(message) if message.route else _of_model(message)),
        },
    }


def _of_route(message: pb.Model) -> Json:
    """A route has no price and no window: those are its candidates'."""
    return {"policy": message.policy, "candidates": list(message.candidates)}


def _of_model(message: pb.Model) -> Json:
    return {
        "context_window": message.context_window,
        "max_output_tokens": message.max_output_tokens,
        "input_price_usd_per_million": dollars(message.input_price),
        "output_price_usd_per_million": dollars(message.output_price),
        "quality": message.quality,
        "capabilities": list(message.capabilities),
        "data_classes": list(message.data_classes),
        "latency_ms": milliseconds(message.latency) if message.HasField("latency") else None,
        "error_rate": message.error_rate,
        "measured_attempts": message.measured_attempts,
    }
