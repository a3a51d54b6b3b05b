"""What is known of each step's output before it ran."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from slipway_orchestrator.core.definition import (
    AgentCall,
    Approval,
    Branch,
    Map,
    ModelCall,
    Parallel,
    Retrieve,
    SetValue,
    Step,
    ToolCall,
    Wait,
)
from slipway_orchestrator.expressions.template import has_expressions

Schema = Mapping[str, JsonValue]


def _closed(**properties: JsonValue) -> dict[str, JsonValue]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


_TEXT: JsonValue = {"type": "string"}
_WHOLE: JsonValue = {"type": "integer"}
_TEXTS: JsonValue = {"type": "array", "items": _TEXT}

PASSAGES = _closed(
    passages={
        "type": "array",
        "items": _closed(
            passage_id=_TEXT,
            document=_TEXT,
            title=_TEXT,
            headings=_TEXTS,
            page={},
            text=_TEXT,
            score={"type": "number"},
            start_offset=_WHOLE,
            end_offset=_WHOLE,
            document_digest=_TEXT,
        ),
    }
)
ANSWER = _closed(
    text=_TEXT,
    citations={
        "type": "array",
        "items": _closed(passage_id=_TEXT, document=_TEXT, title=_TEXT, headings=_TEXTS, page={}, quote=_TEXT),
    },
    grounded={"type": "boolean"},
    model=_TEXT,
    finish_reason=_TEXT,
)
DECISION = _closed(decision=_TEXT, decider=_TEXT, message={}, response={})


SIGNAL = _closed(signal=_TEXT, payload={}, by=_TEXT)
TAKEN = _closed(taken={})
ERROR: JsonValue = {"type": ["object", "null"], "properties": {"code": _TEXT, "message": _TEXT}}
"""Of a step's `error`: null unless it failed and the run went on."""


@dataclass(frozen=True, slots=True)
class Known:
    """What other services and agents tell of their outputs, by name."""

    tools: Mapping[str, Schema]
    agents: Mapping[str, Schema]
    arguments: Mapping[str, Schema] = field(default_factory=dict[str, Schema])
    """What tools take, by name."""


def output_schema(step: Step, known: Known) -> Schema:
    """The schema of the step's output; empty where nothing is known."""
    match step.call:
        case Retrieve():
            return PASSAGES
        case ModelCall():
            return ANSWER
        case Approval():
            return DECISION
        case ToolCall(name=name):
            return known.tools.get(name, {})
        case SetValue(value=value):
            return _of_literal(value)
        case AgentCall(name=name):
            return known.agents.get(name, {})
        case Wait(signal=signal):
            return {"type": "null"} if signal is None else SIGNAL
        case Parallel(steps=steps) if step.named:
            return _closed(**{child.step_id: dict(output_schema(child, known)) for child in steps})
        case Map(steps=steps):
            return {"type": "array", "items": dict(output_schema(steps[-1], known))}
        case Branch():
            return TAKEN
        case _:
            return {"type": "null"}


def _of_literal(value: JsonValue) -> Schema:
    if has_expressions(value):
        if isinstance(value, dict):
            return _closed(**{name: dict(_of_literal(item)) for name, item in value.items()})
        return {}
    return {"const": value}
