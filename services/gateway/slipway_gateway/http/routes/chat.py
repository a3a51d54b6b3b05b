"""Chat completions in OpenAI's wire format."""

import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import structlog
from fastapi import Request, Response
from slipway.memory.v1 import memory_pb2
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import SlipwayError, Unavailable
from slipway_chassis.ids import new_id

from slipway_gateway.http import sse
from slipway_gateway.http.api import api_router
from slipway_gateway.http.calls import MODEL_SECONDS, Calls, first_of, unless_disconnected
from slipway_gateway.http.openai import answers
from slipway_gateway.http.openai.requests import ChatCompletionRequest, chat_request
from slipway_gateway.http.openai.schemas import ChatCompletion
from slipway_gateway.http.problems import openai_error, status_of
from slipway_gateway.http.resources.fields import dollars_text
from slipway_gateway.http.route import CallsDep

router = api_router("openai")
log = structlog.get_logger(__name__)

# As the memory service makes them (TypeID).
_SESSION_ID: Final = re.compile(r"ses_[0-7][0-9a-hjkmnp-tv-z]{25}")
_HEADERS: Final = {
    "x-slipway-model": "Model of the catalogue that answered.",
    "x-slipway-cost-usd": "Cost of all attempts; absent in a stream, whose cost stands in its usage chunk.",
    "x-slipway-attempts": "Attempts made, the successful one included.",
    "x-slipway-request-id": "Id of the call, for `GET /v1/usage/{request_id}`.",
    "x-slipway-cache": "`hit` when the answer comes from the tenant's cache and cost nothing; absent otherwise.",
    "x-slipway-route": "Route that applied; absent when a model was named.",
    "x-slipway-task": "Task that chose the route; absent without one.",
    "x-slipway-task-source": "`stated`, or `classified`: proposed by the catalogue's classifier.",
}
DOCUMENTED_HEADERS: Final[dict[str, Any]] = {
    name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
}


class StreamIncomplete(Unavailable):
    """The answer ended without a finish reason: part of it is missing."""

    reason = "PROVIDER_STREAM_INCOMPLETE"


@router.post(
    "/chat/completions",
    response_model=None,
    responses={
        200: {
            "model": ChatCompletion,
            "description": "The answer; with `stream`, server-sent chunks and `[DONE]`. A stream that fails ends with "
            '`data: {"error": …}`.',
            "headers": DOCUMENTED_HEADERS,
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
    summary="Create a chat completion",
)
async def create_chat_completion(body: ChatCompletionRequest, request: Request, calls: CallsDep) -> Response:
    """Any OpenAI SDK works with this base URL; Slipway's own parameters stand in `slipway`."""
    message = chat_request(body, new_id("req"))
    if body.slipway.session_id:
        await _check_session(calls, body.slipway.session_id)
    if body.stream:
        return await _stream(calls, message, include_usage=body.wants_usage)
    answer: pb.CreateChatCompletionResponse = await unless_disconnected(
        request,
        calls.invoke(
            calls.peers.router.CreateChatCompletion,
            pb.CreateChatCompletionRequest(chat=message),
            timeout=MODEL_SECONDS,
        ),
    )
    request_id = answer.request_id or message.request_id
    headers = {
        "x-slipway-model": answer.catalogue_model,
        "x-slipway-cost-usd": dollars_text(answer.usage.cost),
        "x-slipway-attempts": str(answer.attempts),
        "x-slipway-request-id": request_id,
        **_cache_header(answer.usage.cached),
        **_routing_headers(answer.routing),
    }
    return answers.JsonAnswer(answers.completion(answer, f"chatcmpl-{request_id}"), headers=headers)


def _cache_header(cached: bool) -> dict[str, str]:
    return {"x-slipway-cache": "hit"} if cached else {}


async def _stream(calls: Calls, message: pb.ChatRequest, *, include_usage: bool) -> Response:
    """Waits for the first delta: until then a failure is a problem, and the attempts in the header are true."""
    events = calls.stream(
        calls.peers.router.StreamChatCompletion,
        pb.StreamChatCompletionRequest(chat=message),
        timeout=MODEL_SECONDS,
    )
    first: pb.StreamChatCompletionResponse | None = await first_of(events)
    if first is None or not first.HasField("started"):
        await events.aclose()
        raise StreamIncomplete("the answer ended before it began")
    started = first.started
    request_id = started.request_id or message.request_id
    chunks = answers.Chunks(f"chatcmpl-{request_id}", int(time.time()), started, include_usage=include_usage)
    headers = {
        "x-slipway-model": started.catalogue_model,
        "x-slipway-attempts": str(started.attempts),
        "x-slipway-request-id": request_id,
        **_cache_header(started.cached),
        **_routing_headers(started.routing),
        **sse.HEADERS,
    }
    frames = _frames(events, chunks, include_usage=include_usage)
    return sse.ClosingStream(frames, media_type="text/event-stream", headers=headers)


def _routing_headers(routing: pb.Routing) -> dict[str, str]:
    headers = {"x-slipway-route": routing.route} if routing.route else {}
    if routing.task:
        headers["x-slipway-task"] = routing.task
        headers["x-slipway-task-source"] = "classified" if routing.task_proposed else "stated"
    return headers


async def _check_session(calls: Calls, session_id: str) -> None:
    """Any text keeps a conversation together; the id of a session must be one that the caller may use."""
    if _SESSION_ID.fullmatch(session_id):
        await calls.invoke(calls.peers.sessions.GetSession, memory_pb2.GetSessionRequest(session_id=session_id))


async def _frames(events: AsyncGenerator[Any], chunks: answers.Chunks, *, include_usage: bool) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        try:
            yield sse.data(chunks.role())
            async for event in events:
                match event.WhichOneof("event"):
                    case "content_delta":
                        yield sse.data(chunks.content(event.content_delta))
                    case "tool_call":
                        yield sse.data(chunks.tool_call(event.tool_call))
                    case "finished":
                        yield sse.data(chunks.finish(event.finished.finish_reason))
                        if include_usage:
                            yield sse.data(chunks.total(event.finished.usage))
                        yield sse.DONE
                        return
                    case _:
                        continue
            raise StreamIncomplete("the answer ended without a finish reason")
        except SlipwayError as error:
            # The SDK takes everything for a chunk but this object, and an end without [DONE] for a success.
            log.warning("chat.stream_failed", code=error.reason)
            yield sse.data({"error": openai_error(error, status_of(error, openai=True)).model_dump()})
