"""Checking every expression of a definition: it compiles, uses known names, and fits the types that are known."""

import json
import re
from collections.abc import Iterator

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
from slipway_orchestrator.core.loop.agent import Loop
from slipway_orchestrator.core.workflow.leaf import gate_of
from slipway_orchestrator.definitions.outputs import ERROR, Known, output_schema
from slipway_orchestrator.definitions.parse import Parsed
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node
from slipway_orchestrator.expressions.evaluation import MAX_EXPRESSION, ExpressionFailed, compiled, evaluate_here, used
from slipway_orchestrator.expressions.references import FUNCTIONS, Path
from slipway_orchestrator.expressions.schemas import Missing, Unknown, follow, sample
from slipway_orchestrator.expressions.template import UnclosedTemplate, expressions

MAX_NESTING = 1
_TYPE_ERROR = re.compile(r"No such overload|Unsupported operation|takes no such value")


def check_names(parsed: Parsed, problems: Problems, known: Known) -> None:
    """Note what is wrong with the expressions of all steps and of the result."""
    names = _Names(parsed, problems, known)
    if parsed.definition.loop is not None:
        names.loop(parsed.definition.loop, parsed)
        return
    names.sequence(parsed.definition.steps)
    for where, source in _templates(parsed.definition.result, "", problems, parsed.result):
        names.check(parsed.result.at(where) if where else parsed.result, source)


class _Names:
    """A walk over the steps that knows which names an expression may use at its place.

    A step sees what has certainly or possibly ended before it: not what stands beside it in a parallel step, and
    nothing within a map from outside it.
    """

    def __init__(self, parsed: Parsed, problems: Problems, known: Known) -> None:
        self._nodes = parsed.nodes
        self._problems = problems
        self._known = known
        self._where = dict(_places(parsed.definition.steps, ()))
        self._maps: tuple[str, ...] = ()
        """Maps around the place."""
        self._beside: list[frozenset[str]] = []
        """Steps that run at the same time, for each parallel step around the place."""
        self._steps: dict[str, JsonValue] = {}
        """Schemas of the steps that may be named here."""
        self._values: dict[str, JsonValue] = {
            "input": dict(parsed.definition.input_schema),
            "steps": {"type": "object", "properties": self._steps, "additionalProperties": False},
        }
        self._schema: JsonValue = {"type": "object", "properties": self._values, "additionalProperties": False}

    def sequence(self, steps: tuple[Step, ...]) -> list[str]:
        """Steps one after the other: the names that may be used after them."""
        added: list[str] = []
        for step in steps:
            for where, source, boolean in _expressions(step, self._problems, self._nodes[step.step_id]):
                self.check(self._nodes[step.step_id].at(where), source, boolean=boolean)
            added += self._within(step)
            self._steps[step.step_id] = {
                "type": "object",
                "properties": {"output": dict(output_schema(step, self._known)), "error": ERROR},
                "additionalProperties": False,
            }
            added.append(step.step_id)
        return added

    def loop(self, loop: Loop, parsed: Parsed) -> None:
        """A loop's texts see the input, the conditions of its gates the arguments of the call as well."""
        for where, text in (("instructions", loop.instructions), ("prompt", loop.prompt)):
            for _, source in _templates(text, where, self._problems, parsed.spec):
                self.check(parsed.spec.at(where), source)
        for tool in loop.tools:
            if tool.gate is not None and tool.gate.when is not None:
                self._values["arguments"] = dict(self._known.arguments.get(tool.name, {}))
                self.check(parsed.callees[tool].at("approval.when"), tool.gate.when, boolean=True)
                del self._values["arguments"]

    def _within(self, step: Step) -> list[str]:
        """The steps within a step: the names of theirs that may be used after it."""
        match step.call:
            case Map() as call:
                self._map(step, call)
                return []
            case Parallel(steps=children):
                own = [_ids(child) for child in children]
                blocks = [
                    ((child,), frozenset[str]().union(*own) - ids) for child, ids in zip(children, own, strict=True)
                ]
            case Branch(arms=arms):
                blocks = [(arm.steps, frozenset[str]()) for arm in arms]
            case _:
                return []
        hidden: dict[str, JsonValue] = {}
        for block, beside in blocks:
            self._beside.append(beside)
            for name in self.sequence(block):
                hidden[name] = self._steps.pop(name)
            self._beside.pop()
        self._steps.update(hidden)
        return list(hidden)

    def _map(self, step: Step, call: Map) -> None:
        before = {name: self._values[name] for name in (call.name, "index") if name in self._values}
        self._values.update({call.name: self._item(call), "index": {"type": "integer"}})
        self._maps = (*self._maps, step.step_id)
        for name in self.sequence(call.steps):
            del self._steps[name]
        self._maps = self._maps[:-1]
        for name in (call.name, "index"):
            del self._values[name]
        self._values.update(before)

    def _item(self, call: Map) -> JsonValue:
        """The schema of a map's items, if its list is one whole path."""
        if not isinstance(call.over, str):
            return {}
        refs = used(call.over.removeprefix("${").removesuffix("}"))
        if not refs.whole or len(refs.paths) != 1:
            return {}
        try:
            return follow(self._schema, (*refs.paths[0], 0))
        except (Unknown, Missing):
            return {}

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
        for function in refs.functions:
            if function not in FUNCTIONS:
                return (
                    f"`{_short(source)}`: there is no function {function} (there are: {', '.join(sorted(FUNCTIONS))})"
                )
        for path in refs.paths:
            wrong = self._unknown(path)
            if wrong is not None:
                return f"`{_short(source)}`: {wrong}"
        return self._wrong_type(source, refs.paths, boolean=boolean)

    def _unknown(self, path: Path) -> str | None:
        shown = ".".join(str(part) for part in path)
        if path[0] not in self._values:
            return f"unknown name {path[0]} (known: {', '.join(self._values)})"
        if path[0] == "steps":
            if len(path) == 1:
                return "name a step: steps.<id>.output"
            if path[1] not in self._steps:
                return self._not_here(str(path[1]))
            if len(path) > 2 and path[2] not in ("output", "error"):
                return f"a step has only `output` and `error`, not {path[2]}"
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

    def _not_here(self, step_id: str) -> str:
        """Why a step cannot be named at this place."""
        maps = self._where.get(step_id)
        if maps is None:
            return f"there is no step {step_id}"
        if maps != self._maps[: len(maps)]:
            return f"step {step_id} runs within the map {maps[-1]}: outside, use steps.{maps[-1]}.output"
        if any(step_id in beside for beside in self._beside):
            return f"step {step_id} runs at the same time"
        return f"step {step_id} has not run at this place"


def _places(steps: tuple[Step, ...], maps: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each step's id, and the maps around it."""
    for step in steps:
        yield step.step_id, maps
        inner = (*maps, step.step_id) if isinstance(step.call, Map) else maps
        for block in step.blocks:
            yield from _places(block, inner)


def _ids(step: Step) -> frozenset[str]:
    return frozenset((step.step_id, *(child for block in step.blocks for one in block for child in _ids(one))))


def _expressions(step: Step, problems: Problems, node: Node) -> Iterator[tuple[str, str, bool]]:
    """Where an expression stands below the step's node, its source, and whether it must be true or false."""
    if step.when is not None:
        yield "when", step.when, True
    gate = gate_of(step)
    if gate is not None and gate.when is not None:
        yield "approval.when", gate.when, True
    if isinstance(step.call, Branch):
        for position, arm in enumerate(step.call.arms):
            if arm.when is not None:
                yield f"branch[{position}].when", arm.when, True
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
        case AgentCall(input=value):
            yield "agent.input", value
        case Wait(until=until, signal=signal):
            yield "wait.until", until
            yield "wait.signal", signal
        case Map(over=over):
            yield "map.over", over
        case _:
            pass


def _templates(value: JsonValue, where: str, problems: Problems, node: Node) -> Iterator[tuple[str, str]]:
    try:
        yield from expressions(value, where)
    except UnclosedTemplate as error:
        at = node.at(where) if where else node
        problems.add(at.path, at.line, str(error))


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
