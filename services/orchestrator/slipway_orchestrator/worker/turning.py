"""A loop's turns: the conversation and what may be called go to the model, its answer or its calls come back."""

import json
import time
from collections.abc import Mapping

from pydantic import JsonValue
from slipway.router.v1 import router_pb2

from slipway_orchestrator.core.definition import Definition, Summary, Turn
from slipway_orchestrator.core.events import StepCompleted
from slipway_orchestrator.core.loop.agent import Callee, Loop, LoopAgent, LoopKnowledge, LoopTool
from slipway_orchestrator.core.loop.answer import is_text
from slipway_orchestrator.core.loop.conversation import Message
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.worker.attempt import Attempt
from slipway_orchestrator.worker.completing import Completion, chat_request, complete
from slipway_orchestrator.worker.sources import Sources

_SUMMARISE = (
    "You keep the notes of an assistant that works on a task. Sum up what it was told, did and learned so far. Keep"
    " every fact, name, number and id that may still be needed, what was decided, what failed and why, and what is"
    " still to be done. Write nothing else."
)

_KEPT = 1000
_FRESH = 10.0
"""Seconds for which the description of what is offered is kept."""


class Turns:
    """Takes turns. What is offered is described as it is now: the tools themselves hold calls against it again."""

    def __init__(self, peers: Peers, sources: Sources) -> None:
        self._peers = peers
        self._sources = sources
        self._offers: dict[tuple[str, str, Callee], tuple[float, JsonValue]] = {}

    async def take(self, definition: Definition, loop: Loop, call: Turn, attempt: Attempt) -> StepCompleted:
        """Ask the model what comes next. Raises AttemptFailed or SlipwayError."""
        began = time.monotonic()
        chat = _chat(loop, attempt, [_message(item) for item in call.sent.messages()])
        offered = [await self._offer(name, callee, attempt) for name, callee in loop.callees().items()]
        if offered:
            chat.tools_json = json.dumps(offered)
        if not is_text(definition.output_schema):
            schema: JsonValue = {"name": "output", "schema": dict(definition.output_schema)}
            chat.response_format_json = json.dumps({"type": "json_schema", "json_schema": schema})
        answer = await complete(self._peers, chat, attempt)
        if not answer.calls and not answer.text.strip():
            raise answer.unusable("MODEL_EMPTY_ANSWER", "the model neither answered nor asked for a tool")
        calls: list[JsonValue] = [
            {"id": asked.id, "name": asked.name, "arguments": asked.arguments_json} for asked in answer.calls
        ]
        return _completed(attempt, answer, began, {"tool_calls": calls})

    async def sum_up(self, loop: Loop, call: Summary, attempt: Attempt) -> StepCompleted:
        """Have the model sum up the beginning of the conversation. Raises AttemptFailed or SlipwayError."""
        began = time.monotonic()
        messages = [
            router_pb2.ChatMessage(role="system", content=_SUMMARISE),
            router_pb2.ChatMessage(role="user", content=call.text),
        ]
        answer = await complete(self._peers, _chat(loop, attempt, messages), attempt)
        if not answer.text.strip():
            raise answer.unusable("MODEL_EMPTY_ANSWER", "the model summed up nothing")
        return _completed(attempt, answer, began, {})

    async def _offer(self, name: str, callee: Callee, attempt: Attempt) -> JsonValue:
        run = attempt.run
        key = run.tenant, run.subject, callee
        now = time.monotonic()
        kept = self._offers.get(key)
        if kept is None or now - kept[0] > _FRESH:
            if len(self._offers) >= _KEPT:
                self._offers.clear()
            kept = self._offers[key] = (now, await self._describe(name, callee, attempt))
        return kept[1]

    async def _describe(self, name: str, callee: Callee, attempt: Attempt) -> JsonValue:
        match callee:
            case LoopTool():
                tool = await self._peers.describe_tool(callee.name, attempt.token)
                return _function(name, tool.description, dict(tool.input_schema))
            case LoopKnowledge(collection=collection):
                query: JsonValue = {"type": "string", "description": "What to look for: a few words, or a question."}
                parameters: JsonValue = {"type": "object", "properties": {"query": query}, "required": ["query"]}
                return _function(name, f"Searches the collection {collection} and answers with passages.", parameters)
            case LoopAgent(description=description, version=version):
                found = (await self._sources.callee(attempt.run, callee.name, version)).definition
                told = description or (found.description if found else "") or f"The agent {callee.name}."
                return _function(name, told, dict(found.input_schema) if found else {"type": "object"})


def _completed(attempt: Attempt, answer: Completion, began: float, more: Mapping[str, JsonValue]) -> StepCompleted:
    output: JsonValue = {
        "text": answer.text.strip(),
        **more,
        "model": answer.model,
        "finish_reason": answer.finish_reason,
    }
    return StepCompleted(
        attempt.perform.at.key,
        attempt.perform.step.type,
        output,
        attempt=attempt.perform.attempt,
        duration_ms=round((time.monotonic() - began) * 1000),
        model=answer.model,
        usage=answer.usage,
        cost_usd=answer.cost_usd,
        records=answer.records,
        tainted=attempt.tainted or None,
    )


def _chat(loop: Loop, attempt: Attempt, messages: list[router_pb2.ChatMessage]) -> router_pb2.ChatRequest:
    model = loop.model
    return chat_request(
        attempt,
        messages,
        model=model.model,
        task=model.task,
        max_tokens=model.max_tokens,
        temperature=model.temperature,
    )


def _message(item: Message) -> router_pb2.ChatMessage:
    calls = item.get("tool_calls")
    content = item.get("content")
    return router_pb2.ChatMessage(
        role=str(item["role"]),
        content=None if content is None else str(content),
        tool_call_id=str(item.get("tool_call_id") or ""),
        tool_calls=[
            router_pb2.ToolCall(id=str(call["id"]), name=str(call["name"]), arguments_json=str(call["arguments"]))
            for call in (calls if isinstance(calls, list) else [])
            if isinstance(call, dict)
        ],
    )


def _function(name: str, description: str, parameters: JsonValue) -> JsonValue:
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}
