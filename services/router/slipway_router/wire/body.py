"""Request bodies and answers of OpenAI's wire format."""

import math
from array import array
from base64 import b64decode
from sys import byteorder
from typing import Any

from slipway_router.catalogue import Model
from slipway_router.chat import ChatRequest, Completion, Message, Vectors
from slipway_router.eligibility import output_limit
from slipway_router.errors import BadOutput, ProviderProtocol
from slipway_router.output_checks import OutputChecks
from slipway_router.wire.text import text_of, whole_characters
from slipway_router.wire.tool_calls import ToolCallAssembler
from slipway_router.wire.usage import token_count

FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})


def chat_body(model: Model, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
    """The body of a chat completion. The output limit is always stated: the cost ceiling stands on it."""
    body: dict[str, Any] = dict(request.extra)
    body["model"] = model.upstream
    body["messages"] = [_message(message) for message in request.messages]
    body[model.max_tokens_parameter] = output_limit(model, request.max_tokens)
    optional = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "tools": list(request.tools) or None,
        "tool_choice": request.tool_choice,
        "response_format": request.response_format,
    }
    body.update({name: value for name, value in optional.items() if value is not None})
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def _message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role}
    wire["content"] = [dict(part) for part in message.parts] if message.parts else message.content
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
            for call in message.tool_calls
        ]
    optional = {"tool_call_id": message.tool_call_id, "name": message.name, "refusal": message.refusal}
    return wire | {key: value for key, value in optional.items() if value}


def completion(payload: dict[str, Any], checks: OutputChecks, *, repair: bool = False) -> Completion:
    """A whole answer from a `chat.completion` object; raises ProviderProtocol, BadOutput."""
    usage = token_count(payload.get("usage"))
    try:
        choice = payload["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal") or ""
        reason = finish_reason(choice.get("finish_reason"))
        calls = ToolCallAssembler(checks, repair=repair)
        if message.get("tool_calls"):
            calls.add([{**call, "index": n} for n, call in enumerate(message["tool_calls"])])
        text = None if content is None else whole_characters(text_of(content))
        called = calls.finish(reason)
        checked = checked_text(text, checks, reason, repair=repair) if not (called or refusal) else text
        return Completion(
            content=checked,
            tool_calls=called,
            refusal=_text(refusal),
            finish_reason=reason,
            model=_text(payload.get("model") or ""),
            usage=usage,
            repaired=calls.repaired or checked != text,
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        foreign = ProviderProtocol("the provider's answer has no message")
        foreign.usage = usage
        raise foreign from error
    except (BadOutput, ProviderProtocol) as failure:
        # The tokens were used all the same.
        failure.usage = usage
        raise


def checked_text(text: str | None, checks: OutputChecks, reason: str, *, repair: bool) -> str | None:
    """The text of an answer without tool calls, mended if need be; raises BadOutput. One that was cut off or filtered
    says so by its finish reason, and is passed on as it is."""
    return text if reason != "stop" or not checks.is_json else checks.text(text or "", repair=repair)


def finish_reason(value: Any) -> str:
    """A finish reason of the contract; raises ProviderProtocol for a missing or foreign one: none is made up."""
    if value not in FINISH_REASONS:
        raise ProviderProtocol(f"the provider gives the finish reason {str(value)[:40]!r}")
    return value


def embeddings_body(model: Model, inputs: tuple[str, ...]) -> dict[str, Any]:
    """The body of an embeddings request. Base64 is a quarter of the bytes; who does not know it sends lists."""
    return {"model": model.upstream, "input": list(inputs), "encoding_format": "base64"}


def vectors(payload: dict[str, Any], expected: int) -> Vectors:
    """The vectors of an embeddings answer in the order of the inputs; raises ProviderProtocol."""
    try:
        entries = sorted(payload["data"], key=lambda entry: entry["index"])
        values = tuple(_vector(entry["embedding"]) for entry in entries)
        positions = [entry["index"] for entry in entries]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProviderProtocol("the provider's embeddings are not in the wire format") from error
    # A sum of finite 32-bit numbers is finite in 64 bits, and one that is not makes it so.
    if positions != list(range(expected)) or len({len(value) for value in values}) != 1 or not values[0]:
        raise ProviderProtocol(f"the provider answered {len(values)} vectors for {expected} inputs, or uneven ones")
    if not all(math.isfinite(sum(value)) for value in values):
        raise ProviderProtocol("the provider answered a vector that is not finite")
    return Vectors(values, _text(payload.get("model") or ""), token_count(payload.get("usage")))


def _vector(value: Any) -> "array[float]":
    if not isinstance(value, str):
        return array("f", value)
    numbers = array("f", b64decode(value, validate=True))
    if byteorder == "big":
        numbers.byteswap()
    return numbers


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text expected")
    return whole_characters(value)
