"""What an answer must be like: tool calls and JSON answers are held against the schemas that the request states.

Schemas are compiled once and kept. They resolve within themselves only: a `$ref` elsewhere is refused, never fetched.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jsonschema_rs
from slipway_chassis.errors import InvalidArgument

from slipway_router.errors import BadOutput, MalformedToolCall

_MOST_ERROR_CHARACTERS = 200
_MOST_BACKTRACKING = 100_000
_MOST_KEPT_CHARACTERS = 32 * 1024
_FENCED = re.compile(r"\A\s*```[A-Za-z0-9_-]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class OutputChecks:
    """The checks of one request. `tools` holds a validator by name, None for one without a schema; `content` is the
    validator of a JSON answer."""

    tools: Mapping[str, "Validator | None"] = field(default_factory=dict[str, "Validator | None"])
    is_json: bool = False
    content: "Validator | None" = None
    single_tool_call: bool = False
    choice: str = "auto"
    """`auto`, `none`, `required`, or `=name` for a named tool."""

    def tool_calls(self, names: Sequence[str], finish_reason: str) -> None:
        """Whether calls of tools with these names are what was asked for; raises MalformedToolCall.

        An answer that was cut off or filtered needs no call.
        """
        if finish_reason == "tool_calls" and not names:
            raise MalformedToolCall("the model says that it calls tools, and calls none")
        if names and self.choice == "none":
            raise MalformedToolCall("the model calls a tool although tool_choice is none")
        if len(names) > 1 and self.single_tool_call:
            raise MalformedToolCall("the model calls several tools at once although that is ruled out")
        if finish_reason in ("length", "content_filter"):
            return
        if not names and self.choice not in ("auto", "none"):
            raise MalformedToolCall("the model calls no tool although tool_choice requires it")
        if self.choice.startswith("=") and any(name != self.choice[1:] for name in names):
            raise MalformedToolCall("the model calls another tool than tool_choice names")

    def arguments(self, name: str, text: str, *, repair: bool) -> str:
        """The arguments of a call of `name` as JSON text, mended if that is asked for and needed.

        Raises MalformedToolCall when they are not what the tool was declared with.
        """
        if name not in self.tools:
            raise MalformedToolCall(f"the model calls {name[:64]!r}, a tool that was not offered")
        # A function without parameters may be called without arguments.
        text = text.strip() or "{}"
        value, text = _parsed(text, f"the arguments for {name}", MalformedToolCall, repair=repair)
        if not isinstance(value, dict):
            raise MalformedToolCall(f"the arguments for {name} are not a JSON object")
        validator = self.tools[name]
        fault = validator.fault(value) if validator else None
        if fault is not None:
            raise MalformedToolCall(f"the arguments for {name} do not fit its schema: {fault}")
        return text

    def text(self, content: str, *, repair: bool) -> str:
        """The text of a whole JSON answer, mended if that is asked for and needed; raises BadOutput."""
        if not self.is_json:
            return content
        value, content = _parsed(content, "the answer", BadOutput, repair=repair)
        if not isinstance(value, dict) and self.content is None:
            raise BadOutput("the answer is not a JSON object")
        fault = self.content.fault(value) if self.content else None
        if fault is not None:
            raise BadOutput(f"the answer does not fit the schema: {fault}")
        return content


class Validator:
    """A compiled JSON Schema."""

    def __init__(self, schema: Any) -> None:
        """Raises ValueError when it is no schema, or refers to others."""
        try:
            self._compiled = jsonschema_rs.validator_for(
                schema,
                retriever=_refuse_reference,
                # Patterns come from callers, values from models: back-tracking has a bound.
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_MOST_BACKTRACKING),
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise ValueError(str(error).splitlines()[0][:_MOST_ERROR_CHARACTERS]) from error

    def fault(self, value: Any) -> str | None:
        """Where and why `value` does not fit, without its text: it may be personal; None if it fits."""
        if self._compiled.is_valid(value):
            return None
        error = next(iter(self._compiled.iter_errors(value)))
        where = "/".join(str(part) for part in error.instance_path) or "the whole"
        rule = "/".join(str(part) for part in error.schema_path)
        return f"{where[:80]} breaks {rule[:120]}"


NO_CHECKS = OutputChecks()


def output_checks(
    tools_json: str, tool_choice_json: str, response_format_json: str, single_tool_call: bool = False
) -> OutputChecks:
    """The checks for a request with these texts; raises InvalidArgument for a schema that is none."""
    # Callers choose the texts: what is kept of them has a bound.
    is_small = len(tools_json) + len(response_format_json) <= _MOST_KEPT_CHARACTERS
    make = _kept if is_small else _made
    return make(tools_json, tool_choice_json, response_format_json, single_tool_call)


def _made(tools_json: str, tool_choice_json: str, response_format_json: str, single_tool_call: bool) -> OutputChecks:
    tools: dict[str, Validator | None] = {}
    for index, tool in enumerate(json.loads(tools_json) if tools_json else ()):
        function = tool["function"]
        schema = function.get("parameters")
        place = f"chat.tools_json[{index}].function.parameters"
        tools[str(function.get("name"))] = _validator(schema, place) if schema else None
    form = json.loads(response_format_json) if response_format_json else {}
    kind = form.get("type")
    if kind not in ("json_object", "json_schema"):
        return OutputChecks(tools, single_tool_call=single_tool_call, choice=_choice(tool_choice_json))
    content = None
    if kind == "json_schema":
        described = form.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        place = "chat.response_format_json.json_schema.schema"
        if schema is None:
            raise InvalidArgument("json_schema needs a schema", field=place)
        content = _validator(schema, place)
    return OutputChecks(tools, True, content, single_tool_call, _choice(tool_choice_json))


_kept = lru_cache(maxsize=256)(_made)


def _choice(tool_choice_json: str) -> str:
    choice = json.loads(tool_choice_json) if tool_choice_json else "auto"
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        return f"={name}" if isinstance(name, str) else "auto"
    return choice if choice in ("none", "required") else "auto"


def _validator(schema: Any, place: str) -> Validator:
    try:
        return Validator(schema)
    except ValueError as error:
        raise InvalidArgument(f"not a JSON Schema: {error}", field=place) from error


def _refuse_reference(uri: str) -> Any:
    raise ValueError(f"{uri} is not within the schema")


def _parsed(text: str, what: str, failure: type[BadOutput], *, repair: bool) -> tuple[Any, str]:
    try:
        return _strictly(text), text
    except (ValueError, RecursionError) as error:
        mended = _mended(text) if repair else None
        if mended is None:
            raise failure(f"{what} {'are' if what.startswith('the arg') else 'is'} not JSON") from error
        return mended


def _strictly(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _mended(text: str) -> tuple[Any, str] | None:
    """What is certain to be meant: a fence or words around one value, and commas before a closing bracket.

    Nothing is ever completed: an amount that was cut off must not become another amount.
    """
    fenced = _FENCED.match(text)
    candidate = fenced.group(1) if fenced else _between_braces(text)
    for attempt in (candidate, _without_trailing_commas(candidate)):
        try:
            return _strictly(attempt), attempt
        except (ValueError, RecursionError):
            continue
    return None


def _between_braces(text: str) -> str:
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def _without_trailing_commas(text: str) -> str:
    # Texts are kept as they are; outside of them a comma before a closing bracket goes.
    parts = re.split(r'("(?:[^"\\]|\\.)*")', text)
    return "".join(part if index % 2 else re.sub(r",(\s*[}\]])", r"\1", part) for index, part in enumerate(parts))
