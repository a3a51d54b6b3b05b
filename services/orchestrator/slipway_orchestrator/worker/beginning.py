"""The start of a step: its expressions evaluated, and from them what goes into the journal."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue
from slipway_chassis.jcs import NotCanonical, canonical_json

from slipway_orchestrator.core.actions import Instance
from slipway_orchestrator.core.definition import (
    MAX_ITEMS,
    AgentCall,
    Approval,
    Branch,
    Definition,
    History,
    Map,
    ModelCall,
    Parallel,
    RefusedCall,
    Remember,
    Retrieve,
    SetValue,
    Summary,
    ToolCall,
    Turn,
    Wait,
)
from slipway_orchestrator.core.events import (
    ApprovalRequested,
    Event,
    RunFailed,
    RunSucceeded,
    StepCompleted,
    StepSkipped,
    StepStarted,
)
from slipway_orchestrator.core.limits import Reached, forbids_call, limits_of
from slipway_orchestrator.core.outcomes import failed
from slipway_orchestrator.core.progress import call_key
from slipway_orchestrator.core.state import RunState
from slipway_orchestrator.definitions.catalogue import ToolDescription
from slipway_orchestrator.definitions.json_schema import violations
from slipway_orchestrator.expressions.evaluation import Evaluator, ExpressionFailed, Names
from slipway_orchestrator.expressions.template import render
from slipway_orchestrator.worker.asking import ask, proposer_of
from slipway_orchestrator.worker.scope import Scope, Seen

_TAINTED = "the arguments derive from what came from outside, and policy asks for a person before they are used so"
MAX_ARGUMENTS = 256 * 1024
"""Bytes of a tool's arguments, or of a child run's input."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the journal gets when a step begins."""

    events: tuple[Event, ...]
    approval_schema: str = ""
    """JSON Schema of the arguments that an approval shows."""

    def marked(self) -> "Begun":
        """The same, of values that derive from what came from outside."""
        marked = (StepStarted, StepCompleted, ApprovalRequested)
        events = tuple(replace(event, tainted=True) if isinstance(event, marked) else event for event in self.events)
        return Begun(events, self.approval_schema)


@dataclass(frozen=True, slots=True)
class Calls:
    """The step calls another agent with this input: a child run is to be begun."""

    call: AgentCall
    input: JsonValue
    tainted: bool
    """The input derives from what came from outside."""


class Beginning:
    """Evaluates a definition's expressions over a run's state."""

    def __init__(self, definition: Definition, evaluator: Evaluator) -> None:
        self._definition = definition
        self._evaluator = evaluator
        self._scope = Scope(definition, evaluator)

    async def begin(self, state: RunState, at: Instance, tool: ToolDescription | None, now: datetime) -> Begun | Calls:
        """Skip the step, ask for approval, or journal its intent. `tool` describes the tool of a tool step."""
        try:
            seen = Seen()
            names = await self._scope.names(state, at, seen)
            before = seen.tainted
            if at.step.when is not None and not await self._true(at.step.when, names):
                return Begun((StepSkipped(at.key, at.step.type),))
            # What a condition looks at does not flow into the step. What a model writes derives from all it was told.
            seen.tainted = before or (state.tainted and _of_model(at))
            begun = await self._begin(state, at, tool, names, seen, now)
            return begun if isinstance(begun, Calls) or not seen.tainted else begun.marked()
        except ExpressionFailed as error:
            return _failed(at, "EXPRESSION_FAILED", str(error))
        except NotCanonical as error:
            return _failed(at, "VALUE_NOT_EXACT", error.message)

    async def conclude(self, state: RunState) -> Event:
        """The run's end when all steps are finished: its output, validated."""
        try:
            seen = Seen()
            output = await self._render(self._definition.result, await self._scope.names(state, None, seen))
        except ExpressionFailed as error:
            return RunFailed("RESULT_FAILED", str(error))
        except NotCanonical as error:
            return RunFailed("RESULT_FAILED", error.message)
        wrong = violations(json.dumps(self._definition.output_schema), output)
        if wrong:
            path, message = wrong[0]
            return RunFailed("OUTPUT_INVALID", f"{'output.' + path if path else 'output'}: {message}")
        return RunSucceeded(output, seen.tainted or None)

    async def _begin(
        self,
        state: RunState,
        at: Instance,
        tool: ToolDescription | None,
        names: Names,
        seen: Seen,
        now: datetime,
    ) -> Begun | Calls:
        value: JsonValue
        match at.step.call:
            case SetValue(value=template):
                value = await self._render(template, names)
                return Begun((_intent(at, None), StepCompleted(at.key, at.step.type, value, attempt=1)))
            case Retrieve(query=query, metadata=metadata):
                return _started(
                    at,
                    {
                        "collection": at.step.call.collection,
                        "query": await self._values(at, query, names),
                        "metadata": await self._values(at, dict(metadata), names),
                    },
                )
            case ModelCall(prompt=prompt, system=system, context=context):
                return _started(
                    at,
                    {
                        "prompt": await self._render(prompt, names),
                        "system": await self._render(system, names),
                        "context": await self._render(context, names),
                    },
                )
            case Approval(show=show):
                value = await self._render(show, names)
                asked = ask(self._definition, state, at, value, proposer_of(state), now)
                return Begun((_intent(at, {"show": value}), asked))
            case ToolCall() as call:
                return await self._begin_tool(state, at, call, tool, names, seen, now)
            case AgentCall() as call:
                value = await self._values(at, call.input, names)
                if len(json.dumps(value)) > MAX_ARGUMENTS:
                    return _failed(at, "ARGUMENTS_TOO_LARGE", f"more than {MAX_ARGUMENTS} bytes")
                return Calls(call, value, seen.tainted)
            case Wait() as call:
                return await self._begin_wait(at, call, names, now)
            case Parallel() | Map() | Branch() as call:
                return await self._begin_container(state, at, call, names, seen)
            case Turn() | Summary() | History() | Remember() | RefusedCall() as call:
                return _begin_of_loop(at, call)

    async def _begin_tool(
        self,
        state: RunState,
        at: Instance,
        call: ToolCall,
        tool: ToolDescription | None,
        names: Names,
        seen: Seen,
        now: datetime,
    ) -> Begun:
        if tool is None:
            return _failed(at, "TOOL_NOT_FOUND", f"there is no tool {call.name}")
        arguments = await self._values(at, call.arguments, names)
        if len(json.dumps(arguments)) > MAX_ARGUMENTS:
            return _failed(at, "ARGUMENTS_TOO_LARGE", f"more than {MAX_ARGUMENTS} bytes")
        schema = json.dumps(dict(tool.input_schema))
        wrong = violations(schema, arguments)
        if wrong:
            path, message = wrong[0]
            told = f"{f'arguments.{path}' if path else 'arguments'}: {message}"
            return (_refused if at.step.literal else _failed)(at, "INVALID_ARGUMENTS", told)
        limits = limits_of(state, self._definition)
        reached = forbids_call(state, limits, call_key(call.name, arguments), call.name, arguments, at.key)
        if reached is not None:
            return self._reached(at, reached)
        gate = call.gate
        tainted = seen.tainted
        if at.step.literal:
            names = names.with_value("arguments", arguments)
        asks = gate is not None and (gate.when is None or await self._true(gate.when, names))
        seen.tainted = tainted  # nor does what the gate's condition looks at
        if asks or (tainted and tool.tainted_needs_approval):
            reason = None if asks else _TAINTED
            return Begun((ask(self._definition, state, at, arguments, proposer_of(state), now, reason),), schema)
        return _started(at, {"tool": call.name, "arguments": arguments})

    async def _begin_wait(self, at: Instance, call: Wait, names: Names, now: datetime) -> Begun:
        if call.seconds is not None:
            return _started(at, {"for": call.seconds}, now + timedelta(seconds=call.seconds))
        if call.signal is not None:
            name = await self._render(call.signal, names)
            if not isinstance(name, str) or not 0 < len(name) <= 200:
                return _failed(at, "EXPRESSION_FAILED", "the name of a signal is a text of at most 200 characters")
            until = None if call.expires is None else now + timedelta(seconds=call.expires)
            return _started(at, {"signal": name}, until)
        text = await self._render(call.until, names)
        time = _time(text)
        if time is None:
            shown = json.dumps(text)[:80]
            return _failed(at, "EXPRESSION_FAILED", f"until must be a time such as 2026-05-01T09:00:00Z, not {shown}")
        return _started(at, {"until": text}, time)

    async def _begin_container(
        self, state: RunState, at: Instance, call: Parallel | Map | Branch, names: Names, seen: Seen
    ) -> Begun:
        match call:
            case Parallel():
                return _started(at, None)
            case Map():
                items = len(await self._scope.items_of(state, at, seen))
                if items > MAX_ITEMS:
                    message = f"a map goes over at most {MAX_ITEMS} items, not over {items}"
                    return _failed(at, "MAP_TOO_LARGE", message)
                return _started(at, {"count": items})
            case Branch(arms=arms):
                for position, arm in enumerate(arms):
                    if arm.when is None or await self._true(arm.when, names):
                        return _started(at, {"taken": position})
                return _started(at, {"taken": None})

    def _reached(self, at: Instance, reached: Reached) -> Begun:
        detection = self._definition.loop_detection
        on = self._definition.limits.on_limit if detection is None else detection.on
        if on == "pause":
            return Begun(reached.pause())
        return Begun((*reached.fail()[:-1], failed(at, 0, reached.code, reached.message, fatal=True)))

    async def _true(self, expression: str, names: Names) -> bool:
        value = await self._evaluator.evaluate(expression, names)
        if not isinstance(value, bool):
            raise ExpressionFailed(f"`{expression}` must be true or false, but is {json.dumps(value)[:80]}")
        return value

    async def _values(self, at: Instance, template: JsonValue, names: Names) -> JsonValue:
        """Rendered, unless a model wrote it: what it writes is never an expression."""
        if not at.step.literal:
            return await self._render(template, names)
        canonical_json(template)
        return template

    async def _render(self, template: JsonValue, names: Names) -> JsonValue:
        async def evaluate(source: str) -> JsonValue:
            try:
                return await self._evaluator.evaluate(source, names)
            except ExpressionFailed as error:
                raise type(error)(f"`{source}`: {error}") from error

        value = await render(template, evaluate)
        canonical_json(value)
        return value


def _intent(at: Instance, value: JsonValue, until: datetime | None = None) -> StepStarted:
    return StepStarted(at.key, at.step.type, 1, value, until=until)


def _started(at: Instance, value: JsonValue, until: datetime | None = None) -> Begun:
    return Begun((_intent(at, value, until),))


def _failed(at: Instance, code: str, message: str) -> Begun:
    """A step that failed before its effect."""
    return Begun((failed(at, 0, code, message, escalate=True),))


def _of_model(at: Instance) -> bool:
    """Whether a model that a loop told everything wrote the step's values, or is to be told everything."""
    return at.step.literal or isinstance(at.step.call, Turn | Summary | Remember)


def _begin_of_loop(at: Instance, call: Turn | Summary | History | Remember | RefusedCall) -> Begun:
    """The journal says how much the model is sent; what it is follows from the journal."""
    match call:
        case Turn(number=number, sent=sent):
            return _started(at, {"turn": number, "messages": len(sent.messages())})
        case Summary(through=through, text=text):
            return _started(at, {"through": through, "characters": len(text)})
        case History():
            return _started(at, {})
        case Remember(messages=messages):
            return _started(at, {"messages": len(messages)})
        case RefusedCall(code=code, message=message):
            return _refused(at, code, message)


def _refused(at: Instance, code: str, message: str) -> Begun:
    """A call that a model asked for and that cannot be made. It counts as a tool's error, so that there is an end."""
    return Begun((failed(at, 0, code, message, more={"tool_error": True}),))


def _time(value: JsonValue) -> datetime | None:
    """A time of RFC 3339; None for anything else. A time without a zone is UTC."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
