"""The only crossing between slipway.router.v1 and the router's own terms. Checks the form of requests."""

import json
import math
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from sys import byteorder
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from slipway.effects.v1 import effects_pb2
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.money import from_money, to_money

from slipway_router.answers import ChatAnswer, EmbeddingsAnswer
from slipway_router.catalogue import CAPABILITIES, QUALITIES, Capability, Quality
from slipway_router.chat import (
    ChatRequest,
    Effect,
    EmbeddingsRequest,
    JsonObject,
    Message,
    Record,
    Routing,
    Spent,
    StreamEvent,
    StreamFinished,
    StreamStarted,
    TextDelta,
    ToolCall,
)
from slipway_router.output_checks import output_checks
from slipway_router.usage import UsageRow, UsageSum

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_OWN_PARAMETERS = frozenset(
    {
        "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p",
        "stop", "seed", "tools", "tool_choice", "response_format",
    }
)  # fmt: skip
_PACKED_VALUES = bytes([pb.Embedding.DESCRIPTOR.fields_by_name["values"].number << 3 | 2])
_MOST_LABELS = 16
_MOST_ID_CHARACTERS = 128
_MOST_INPUTS = 256
_MOST_INPUT_BYTES = 256 * 1024


def chat_request(chat: pb.ChatRequest, *, messages_needed: bool = True) -> ChatRequest:
    """A chat request in domain terms; raises InvalidArgument naming the field."""
    if messages_needed and not chat.messages:
        raise InvalidArgument("at least one message is needed", field="chat.messages")
    max_tokens = chat.max_tokens if chat.HasField("max_tokens") else None
    if max_tokens is not None and max_tokens < 1:
        raise InvalidArgument("max_tokens must be at least 1", field="chat.max_tokens")
    if len(chat.stop) > 4 or not all(chat.stop):
        raise InvalidArgument("stop takes at most 4 non-empty texts", field="chat.stop")
    tools = _json(chat.tools_json, "chat.tools_json", list) or []
    if not all(isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools):
        raise InvalidArgument("each tool is an object with a function", field="chat.tools_json")
    extra = _extra(chat.extra_json)
    _check_labels(chat)
    max_cost = from_money(chat.max_cost, field="chat.max_cost") if chat.HasField("max_cost") else None
    if max_cost is not None and max_cost < 0:
        raise InvalidArgument("max_cost must not be negative", field="chat.max_cost")
    return ChatRequest(
        messages=tuple(_message(message, f"chat.messages[{n}]") for n, message in enumerate(chat.messages)),
        model=chat.model,
        task=chat.task,
        max_tokens=max_tokens,
        temperature=_number(chat, "temperature", 2.0),
        top_p=_number(chat, "top_p", 1.0),
        stop=tuple(chat.stop),
        seed=chat.seed if chat.HasField("seed") else None,
        tools=tuple(tools),
        tool_choice=_json(chat.tool_choice_json, "chat.tool_choice_json", str | dict),
        response_format=_json(chat.response_format_json, "chat.response_format_json", dict),
        extra=extra,
        regions=_regions(chat),
        max_cost=max_cost,
        session_id=chat.session_id,
        labels=dict(chat.labels),
        effect=_effect(chat),
        request_id=chat.request_id,
        run_max_cost=_run_max_cost(chat),
        quality=_quality(chat.quality),
        max_latency=_max_latency(chat),
        data_classes=frozenset(chat.data_classes),
        capabilities=_capabilities(chat.capabilities),
        checks=output_checks(
            chat.tools_json,
            chat.tool_choice_json,
            chat.response_format_json,
            extra.get("parallel_tool_calls") is False,
        ),
    )


def embeddings_request(request: pb.CreateEmbeddingsRequest) -> EmbeddingsRequest:
    """An embeddings request in domain terms; raises InvalidArgument naming the field."""
    if not 1 <= len(request.inputs) <= _MOST_INPUTS:
        raise InvalidArgument(f"1 to {_MOST_INPUTS} inputs are needed", field="inputs")
    for index, text in enumerate(request.inputs):
        if not text.strip():
            raise InvalidArgument("the input is empty", field=f"inputs[{index}]")
        if len(text.encode()) > _MOST_INPUT_BYTES:
            raise InvalidArgument(f"the input is longer than {_MOST_INPUT_BYTES} bytes", field=f"inputs[{index}]")
    return EmbeddingsRequest(
        inputs=tuple(request.inputs),
        model=request.model,
        regions=_regions(request),
        effect=_effect(request),
        run_max_cost=_run_max_cost(request),
        data_classes=frozenset(request.data_classes),
    )


def chat_response(answer: ChatAnswer) -> pb.CreateChatCompletionResponse:
    """A whole answer on the wire."""
    message = pb.ChatMessage(role="assistant", refusal=answer.refusal)
    if answer.content is not None:
        message.content = answer.content
    message.tool_calls.extend(_tool_call(call) for call in answer.tool_calls)
    return pb.CreateChatCompletionResponse(
        message=message,
        finish_reason=answer.finish_reason,
        model=answer.model,
        catalogue_model=answer.catalogue_model,
        usage=usage(answer.spent),
        attempts=answer.attempts,
        request_id=answer.request_id,
        record=_record(answer.record),
        create_time=_timestamp(answer.create_time),
        routing=_routing(answer.routing),
    )


def stream_response(event: StreamEvent) -> pb.StreamChatCompletionResponse:
    """An event of a stream on the wire."""
    match event:
        case StreamStarted():
            started = pb.StreamStarted(
                model=event.model,
                catalogue_model=event.catalogue_model,
                attempts=event.attempts,
                request_id=event.request_id,
                cached=event.cached,
                routing=_routing(event.routing),
            )
            return pb.StreamChatCompletionResponse(started=started)
        case TextDelta():
            return pb.StreamChatCompletionResponse(content_delta=event.text)
        case ToolCall():
            return pb.StreamChatCompletionResponse(tool_call=_tool_call(event))
        case StreamFinished():
            finished = pb.StreamFinished(
                finish_reason=event.finish_reason, usage=usage(event.spent), record=_record(event.record)
            )
            return pb.StreamChatCompletionResponse(finished=finished)


def embeddings_response(answer: EmbeddingsAnswer) -> pb.CreateEmbeddingsResponse:
    """Vectors on the wire."""
    return pb.CreateEmbeddingsResponse(
        embeddings=[_embedding(vector) for vector in answer.values],
        model=answer.model,
        usage=usage(answer.spent),
        request_id=answer.request_id,
        catalogue_model=answer.catalogue_model,
    )


def usage_row(row: UsageRow) -> pb.UsageRow:
    """A usage row on the wire."""
    return pb.UsageRow(
        request_id=row.request_id,
        end_time=_timestamp(row.end_time),
        subject=row.subject,
        run_id=row.run_id,
        requested_model=row.requested_model,
        catalogue_model=row.catalogue_model,
        returned_model=row.returned_model,
        provider=row.provider,
        usage=usage(row.spent),
        attempts=row.attempts,
        outcome=row.outcome,
        latency_ms=row.latency_ms,
        labels=row.labels,
        task=row.task,
        root_run_id=row.root_run_id,
        agent_version=row.agent_version,
    )


def usage_group(group: UsageSum) -> pb.UsageGroup:
    """A sum on the wire."""
    return pb.UsageGroup(key=group.key, calls=group.calls, usage=usage(group.spent))


def moment(request: pb.SummarizeUsageRequest, field: str) -> datetime | None:
    """A time of the request, or None if it is unset; raises InvalidArgument for one that no calendar has."""
    if not request.HasField(field):  # pyright: ignore[reportArgumentType] - the caller names a field of the message
        return None
    value: Timestamp = getattr(request, field)
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument("not a time", field=field) from error


def _message(message: pb.ChatMessage, field: str) -> Message:
    if message.role not in _ROLES:
        raise InvalidArgument(f"role must be one of {', '.join(sorted(_ROLES))}", field=f"{field}.role")
    parts = _json(message.content_parts_json, f"{field}.content_parts_json", list) or []
    if not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in parts):
        raise InvalidArgument("each content part is an object with a type", field=f"{field}.content_parts_json")
    content = message.content if message.HasField("content") else None
    if content is None and not parts and not message.tool_calls and not message.refusal:
        raise InvalidArgument("the message has no content", field=f"{field}.content")
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidArgument("a tool message names the call it answers", field=f"{field}.tool_call_id")
    return Message(
        role=message.role,
        content=content,
        parts=tuple(parts),
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments_json) for call in message.tool_calls),
        tool_call_id=message.tool_call_id,
        name=message.name,
        refusal=message.refusal,
    )


def _check_labels(chat: pb.ChatRequest) -> None:
    if len(chat.request_id) > _MOST_ID_CHARACTERS:
        raise InvalidArgument(f"longer than {_MOST_ID_CHARACTERS} characters", field="chat.request_id")
    if len(chat.labels) > _MOST_LABELS:
        raise InvalidArgument(f"more than {_MOST_LABELS} labels", field="chat.labels")
    for name, value in chat.labels.items():
        if not name or len(name) > 64 or len(value) > 512:
            raise InvalidArgument(
                "names have 1 to 64 characters, values at most 512", field=f"chat.labels[{name[:64]}]"
            )


def _number(chat: pb.ChatRequest, field: str, most: float) -> float | None:
    if not chat.HasField(field):  # pyright: ignore[reportArgumentType] - the caller names a field of the message
        return None
    value: float = getattr(chat, field)
    if not math.isfinite(value) or not 0 <= value <= most:
        raise InvalidArgument(f"{field} must be between 0 and {most:g}", field=f"chat.{field}")
    return value


def _extra(text: str) -> JsonObject:
    extra = _json(text, "chat.extra_json", dict) or {}
    own = sorted(_OWN_PARAMETERS & extra.keys())
    if own:
        raise InvalidArgument(f"{', '.join(own)} has a field of its own", field="chat.extra_json")
    if extra.get("n", 1) != 1:
        raise InvalidArgument("n must be 1: an answer has one choice", field="chat.extra_json.n")
    return extra


def _json(text: str, field: str, kind: Any) -> Any:
    if not text:
        return None

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("not JSON", field=field) from error
    if value is None:
        return None
    if not isinstance(value, kind):
        raise InvalidArgument("JSON of another kind is expected", field=field)
    return value


def _regions(request: pb.ChatRequest | pb.CreateEmbeddingsRequest) -> tuple[str, ...] | None:
    # A list without the flag is a demand all the same: a lost flag must not open anything.
    if not request.regions_demanded and not request.regions:
        return None
    return tuple(dict.fromkeys(request.regions))


def _effect(request: pb.ChatRequest | pb.CreateEmbeddingsRequest) -> Effect | None:
    if not request.HasField("effect") or not request.effect.key:
        return None
    effect = request.effect
    if effect.attempt < 1 or effect.epoch < 0:
        raise InvalidArgument("attempt counts from 1 and epoch from 0", field="effect")
    return Effect(effect.key, effect.epoch, effect.attempt, effect.root_run_id)


def _run_max_cost(request: pb.ChatRequest | pb.CreateEmbeddingsRequest) -> Decimal | None:
    if not request.HasField("run_max_cost"):
        return None
    amount = from_money(request.run_max_cost, field="run_max_cost")
    if amount < 0:
        raise InvalidArgument("must not be negative", field="run_max_cost")
    return amount


def _routing(routing: Routing) -> pb.Routing:
    return pb.Routing(route=routing.route, task=routing.task, task_proposed=routing.task_proposed)


def _quality(name: str) -> Quality:
    if not name:
        return Quality.ECONOMY
    if name not in QUALITIES:
        raise InvalidArgument(f"quality is one of {', '.join(QUALITIES)}", field="chat.quality")
    return QUALITIES[name]


def _max_latency(chat: pb.ChatRequest) -> float | None:
    if not chat.HasField("max_latency"):
        return None
    seconds = chat.max_latency.ToTimedelta().total_seconds()
    if seconds <= 0:
        raise InvalidArgument("max_latency must be above 0", field="chat.max_latency")
    return seconds


def _capabilities(names: Iterable[str]) -> frozenset[Capability]:
    asked = frozenset(names)
    known: frozenset[Capability] = frozenset(capability for capability in CAPABILITIES if capability in asked)
    if len(known) < len(asked):
        raise InvalidArgument(f"capabilities are {', '.join(CAPABILITIES)}", field="chat.capabilities")
    return known


def _embedding(vector: "array[float]") -> pb.Embedding:
    """A packed field is its numbers in little-endian order: taken as they lie there, not one by one."""
    if byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    packed = vector.tobytes()
    return pb.Embedding.FromString(_PACKED_VALUES + _varint(len(packed)) + packed)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _tool_call(call: ToolCall) -> pb.ToolCall:
    return pb.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)


def usage(spent: Spent) -> pb.Usage:
    """Tokens and cost on the wire."""
    return pb.Usage(
        input_tokens=spent.tokens.input,
        cached_input_tokens=spent.tokens.cached_input,
        output_tokens=spent.tokens.output,
        reasoning_tokens=spent.tokens.reasoning,
        cost=to_money(spent.cost),
        estimated=spent.estimated,
        cache_write_tokens=spent.tokens.cache_write,
        image_tokens=spent.tokens.image,
        cached=spent.cached,
    )


def _record(record: Record) -> effects_pb2.RecordRef:
    return effects_pb2.RecordRef(event_id=record.event_id, commitment=record.commitment)


def _timestamp(value: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp
