"""Checking every expression of a definition: it compiles, uses known names, and fits the types that are known."""

import json
import re
from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from slipway_orchestrator.core.definition import Approval, ModelCall, Retrieve, SetValue, Step, ToolCall
from slipway_orchestrator.core.workflow.leaf import gate_of
from slipway_orchestrator.definitions.outputs import Schema, output_schema
from slipway_orchestrator.definitions.parse import Parsed
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node
from slipway_orchestrator.expressions.evaluation import MAX_EXPRESSION, ExpressionFailed, compiled, evaluate_here, used
from slipway_orchestrator.expressions.references import Path
from slipway_orchestrator.expressions.schemas import Missing, Unknown, follow, sample
from slipway_orchestrator.expressions.template import UnclosedTemplate, expressions

MAX_NESTING = 1
_TYPE_ERROR = re.compile(r"No such overload|Unsupported operation|Undefined variable or function")


def check_names(parsed: Parsed, problems: Problems, tool_outputs: Mapping[str, Schema]) -> None:
    """Note what is wrong with the expressions of all steps and of the result."""
    definition = parsed.definition
    order = [step.step_id for step in definition.steps]
    known: dict[str, Schema] = {}
    for step, node in zip(definition.steps, parsed.steps, strict=True):
        scope = _Scope(definition.input_schema, dict(known), order, problems)
        for where, source, boolean in _expressions(step, problems, node):
            scope.check(node.at(where), source, boolean=boolean)
        known[step.step_id] = output_schema(step, tool_outputs)
    scope = _Scope(definition.input_schema, known, order, problems)
    for where, source in _templates(definition.result, "", problems, parsed.result):
        scope.check(parsed.result.at(where) if where else parsed.result, source)


def _expressions(step: Step, problems: Problems, node: Node) -> Iterator[tuple[str, str, bool]]:
    """Where an expression stands below the step's node, its source, and whether it must be true or false."""
    if step.when is not None:
        yield "when", step.when, True
    gate = gate_of(step)
    if gate is not None and gate.when is not None:
        yield "approval.when", gate.when, True
    for where, value in templates_of(step):
        for path, source in _templates(value, where, problems, node):
            yield path, source, False


def templates_of(step: Step) -> Iterator[tuple[str, JsonValue]]:
    """The values of a step that may hold templates, with their place below the step."""
    match step.call:
        case Retrieve(query=query, metadata=metadata):
            yield "retrieve.query", query
            yield "retrieve.metadata", dict(metadata)
        case ModelCall(prompt=prompt, system=system, context=context):
            yield "model.prompt", prompt
            yield "model.system", system
            yield "model.context", context
        case ToolCall(arguments=arguments):
            yield "tool.arguments", arguments
        case Approval(show=show):
            yield "approval.show", show
        case SetValue(value=value):
            yield "set", value


def _templates(value: JsonValue, where: str, problems: Problems, node: Node) -> Iterator[tuple[str, str]]:
    try:
        yield from expressions(value, where)
    except UnclosedTemplate as error:
        at = node.at(where) if where else node
        problems.add(at.path, at.line, str(error))


class _Scope:
    """The names that an expression may use at its place."""

    def __init__(
        self, input_schema: Schema, outputs: Mapping[str, Schema], order: list[str], problems: Problems
    ) -> None:
        self._outputs = outputs
        self._order = order
        self._problems = problems
        steps: dict[str, JsonValue] = {
            name: {"type": "object", "properties": {"output": dict(schema)}, "additionalProperties": False}
            for name, schema in outputs.items()
        }
        self._schema: JsonValue = {
            "type": "object",
            "properties": {
                "input": dict(input_schema),
                "steps": {"type": "object", "properties": steps, "additionalProperties": False},
            },
            "additionalProperties": False,
        }

    def check(self, node: Node, source: str, *, boolean: bool = False) -> None:
        """Note what is wrong with one expression."""
        wrong = self._wrong(source, boolean=boolean)
        if wrong is not None:
            self._problems.add(node.path, node.line, wrong)

    def _wrong(self, source: str, *, boolean: bool) -> str | None:
        if not source:
            return "`${}` holds no expression"
        if len(source) > MAX_EXPRESSION:
            return f"an expression must have at most {MAX_EXPRESSION} characters"
        try:
            compiled(source)
        except ValueError as error:
            return f"`{_short(source)}` does not compile: {_parser_message(error)}"
        refs = used(source)
        if refs.nesting > MAX_NESTING:
            return f"`{_short(source)}`: comprehensions (map, filter, all, exists) must not nest"
        for path in refs.paths:
            wrong = self._unknown(path)
            if wrong is not None:
                return f"`{_short(source)}`: {wrong}"
        return self._wrong_type(source, refs.paths, boolean=boolean)

    def _unknown(self, path: Path) -> str | None:
        shown = ".".join(str(part) for part in path)
        if path[0] not in ("input", "steps"):
            return f"unknown name {path[0]} (known: input, steps)"
        if path[0] == "steps":
            if len(path) == 1:
                return "name a step: steps.<id>.output"
            if path[1] not in self._outputs:
                if path[1] in self._order:
                    return f"step {path[1]} has not run at this place"
                return f"there is no step {path[1]}"
            if len(path) > 2 and path[2] != "output":
                return f"a step has only `output`, not {path[2]}"
        try:
            follow(self._schema, path)
        except Unknown:
            return None
        except Missing as error:
            return f"{shown}: {error}"
        return None

    def _wrong_type(self, source: str, paths: tuple[Path, ...], *, boolean: bool) -> str | None:
        """Try the expression on sample values, where the schemas tell all of them."""
        names: dict[str, JsonValue] = {"steps": {}, "input": {}}
        try:
            for path in paths:
                schema = follow(self._schema, path)
                if path[0] == "steps" and "number" in json.dumps(schema):
                    return None  # whether a step gives 50 or 50.0 is known when it ran
                _put(names, path, sample(schema))
        except Unknown:
            return None
        try:
            value = evaluate_here(source, names)
        except ExpressionFailed as error:
            # Other failures (a missing index, division by zero) depend on the values.
            return f"`{_short(source)}`: {error}" if _TYPE_ERROR.search(str(error)) else None
        if boolean and not isinstance(value, bool):
            return f"`{_short(source)}` must be true or false, but is {value!r} for sample values"
        return None


def _put(names: dict[str, JsonValue], path: Path, value: JsonValue) -> None:
    """Place a sample at a path. Raises Unknown where another sample is in the way."""
    at: JsonValue = names
    for key in path[:-1]:
        if not isinstance(at, dict) or not isinstance(key, str):
            raise Unknown
        at = at.setdefault(key, {})
    last = path[-1]
    if not isinstance(at, dict) or not isinstance(last, str):
        raise Unknown
    at[last] = value


def _short(source: str) -> str:
    return source if len(source) <= 80 else source[:80] + "…"


def _parser_message(error: ValueError) -> str:
    found = re.search(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?([^\n]*)", str(error))
    if found is None:
        return str(error).splitlines()[0][:300]
    return f"column {found[2]}: {found[3][:300]}"
