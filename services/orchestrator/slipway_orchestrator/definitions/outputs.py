"""What is known of each step's output before it ran."""

from collections.abc import Mapping

from pydantic import JsonValue

from slipway_orchestrator.core.definition import Approval, ModelCall, Retrieve, SetValue, Step, ToolCall
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


def output_schema(step: Step, tool_outputs: Mapping[str, Schema]) -> Schema:
    """The schema of the step's output; empty where nothing is known. `tool_outputs` by name of the tool."""
    match step.call:
        case Retrieve():
            return PASSAGES
        case ModelCall():
            return ANSWER
        case Approval():
            return DECISION
        case ToolCall(name=name):
            return tool_outputs.get(name, {})
        case SetValue(value=value):
            return _of_literal(value)


def _of_literal(value: JsonValue) -> Schema:
    if has_expressions(value):
        if isinstance(value, dict):
            return _closed(**{name: dict(_of_literal(item)) for name, item in value.items()})
        return {}
    return {"const": value}
