"""What the audit log keeps of a call: enough to tell, years later, what was asked and what was answered."""

import json
from collections.abc import Mapping
from typing import Any

from slipway_chassis.jcs import digest

from slipway_router.answers import ChatAnswer
from slipway_router.call_record import CallRecord
from slipway_router.catalogue import Quality
from slipway_router.chat import ChatRequest, Completion, EmbeddingsRequest, ToolCall
from slipway_router.decision import HURDLES, task_source
from slipway_router.routing import Plan

MODEL_CALL = "model.call"
"""Type of the audit event, one for each call, failed and refused ones included."""


def chat_question(request: ChatRequest) -> dict[str, object]:
    """Prompt and parameters. Foreign JSON and numbers with a point are text: the canonical form has no floats.

    A replay refers to the request that it repeats: the words of another person stay under that person's key.
    """
    if request.replay_of:
        return {"replay_of": request.replay_of}
    parameters: dict[str, object | None] = {
        "max_tokens": request.max_tokens,
        "temperature": _number(request.temperature),
        "top_p": _number(request.top_p),
        "stop": list(request.stop) or None,
        "seed": _number(request.seed),
        "tools": _json(request.tools),
        "tool_choice": _json(request.tool_choice),
        "response_format": _json(request.response_format),
        "extra": _json(request.extra),
    }
    messages = [
        _present(
            {
                "role": message.role,
                "content": message.content,
                "parts": _json(message.parts),
                "tool_calls": _calls(message.tool_calls),
                "tool_call_id": message.tool_call_id or None,
                "name": message.name or None,
                "refusal": message.refusal or None,
            }
        )
        for message in request.messages
    ]
    return {"messages": messages, "parameters": _present(parameters)}


def chat_output(text: str | None, completion: Completion) -> dict[str, object]:
    """The answer; `text` is what was streamed, for a completion that carries none."""
    return _present(
        {
            "content": completion.content if text is None else text,
            "tool_calls": _calls(completion.tool_calls),
            "refusal": completion.refusal or None,
            "finish_reason": completion.finish_reason,
        }
    )


def answer_output(answer: ChatAnswer) -> dict[str, object]:
    """An answer that was kept, given once more."""
    return _present(
        {
            "content": answer.content,
            "tool_calls": _calls(answer.tool_calls),
            "refusal": answer.refusal or None,
            "finish_reason": answer.finish_reason,
            "kept_from": answer.request_id,
        }
    )


def embeddings_question(request: EmbeddingsRequest) -> dict[str, object]:
    """Number and digest of the inputs: the texts are documents that the memory service keeps."""
    return {"inputs": len(request.inputs), "inputs_digest": digest(list(request.inputs))}


def event_data(record: CallRecord, question: Mapping[str, object]) -> dict[str, Any]:
    """The data of the audit event of a call that has ended."""
    plan, candidate = record.plan, record.candidate
    return {
        **question,
        **_present(
            {
                "operation": record.operation,
                "request_id": record.request_id,
                "requested_model": record.requested_model or None,
                "task": record.task or None,
                **(_decision(plan) if plan else {}),
                "catalogue_model": candidate.model.name if candidate else None,
                "upstream_model": candidate.model.upstream if candidate else None,
                "provider": candidate.model.provider.name if candidate else None,
                "returned_model": record.returned_model or None,
                "effect": record.effect.key if record.effect else None,
                "root_run_id": record.root_run_id or None,
                # A replay's answer stands on another person's words.
                "output": None if "replay_of" in question else record.output,
            }
        ),
        "attempts": [
            _present(
                {
                    "model": attempt.model,
                    "provider": attempt.provider,
                    "outcome": attempt.outcome,
                    "status": attempt.status,
                    "latency_ms": attempt.latency_ms,
                }
            )
            for attempt in record.attempts
        ],
        "left_out": [
            {"model": left.model.name, "hurdle": HURDLES[left.hurdle], "reason": left.reason} for left in plan.left_out
        ]
        if plan
        else [],
        "usage": {
            "input_tokens": record.tokens.input,
            "cached_input_tokens": record.tokens.cached_input,
            "output_tokens": record.tokens.output,
            "reasoning_tokens": record.tokens.reasoning,
            "cache_write_tokens": record.tokens.cache_write,
            "image_tokens": record.tokens.image,
            "cost_usd": format(record.cost, "f"),
            "estimated": record.estimated,
            "cached": record.cached,
        },
        "outcome": record.outcome,
        "latency_ms": record.latency_ms,
    }


def _decision(plan: Plan) -> dict[str, object | None]:
    """What was demanded and how the candidates stood; scores are text, for the canonical form has no floats."""
    demand, route = plan.demand, plan.route
    return {
        "regions": sorted(demand.regions) if demand.regions is not None else None,
        "data_classes": sorted(demand.data_classes) or None,
        "quality": demand.quality.name.lower() if demand.quality > Quality.ECONOMY else None,
        "task_source": task_source(plan) or None,
        "route": route.name if route else None,
        "policy": route.policy if route else None,
        "candidates": [
            {"model": candidate.model.name, "score": f"{plan.scores.get(candidate.model.name, 0.0):.6g}"}
            for candidate in plan.candidates
        ],
        "session_model": plan.session_model or None,
        "catalogue_digest": plan.catalogue_digest,
    }


def _calls(calls: tuple[ToolCall, ...]) -> list[dict[str, str]] | None:
    return [{"id": c.id, "name": c.name, "arguments": c.arguments_json} for c in calls] or None


def _json(value: Any) -> str | None:
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if value else None


def _number(value: float | None) -> str | None:
    return None if value is None else repr(value)


def _present(fields: Mapping[str, object | None]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
