"""The start of a step: its expressions evaluated, and from them what goes into the journal."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import JsonValue
from slipway_chassis.ids import new_id
from slipway_chassis.jcs import NotCanonical, canonical_json, digest

from slipway_orchestrator.core.decide import gate_of
from slipway_orchestrator.core.definition import (
    Approval,
    Definition,
    Gate,
    ModelCall,
    Retrieve,
    SetValue,
    Step,
    ToolCall,
)
from slipway_orchestrator.core.events import (
    ApprovalRequested,
    Event,
    RunFailed,
    RunSucceeded,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
)
from slipway_orchestrator.core.limits import forbids_call, wall_deadline
from slipway_orchestrator.core.state import RunState, call_key
from slipway_orchestrator.definitions.catalogue import ToolDescription
from slipway_orchestrator.definitions.json_schema import violations
from slipway_orchestrator.expressions.evaluation import Evaluator, ExpressionFailed, Names
from slipway_orchestrator.expressions.schemas import as_declared
from slipway_orchestrator.expressions.template import render

MAX_ARGUMENTS = 256 * 1024
"""Bytes of a tool's arguments."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the journal gets when a step begins."""

    events: tuple[Event, ...]
    approval_schema: str = ""
    """JSON Schema of the arguments that an approval shows."""


class Beginning:
    """Evaluates a definition's expressions over a run's state."""

    def __init__(self, definition: Definition, evaluator: Evaluator) -> None:
        self._definition = definition
        self._evaluator = evaluator

    async def begin(self, state: RunState, step: Step, tool: ToolDescription | None, now: datetime) -> Begun:
        """Skip the step, ask for approval, or journal its intent. `tool` describes the tool of a tool step."""
        names = self._names(state)
        try:
            if step.when is not None and not await self._true(step.when, names):
                return Begun((StepSkipped(step.step_id, step.type),))
            return await self._begin(state, step, tool, names, now)
        except ExpressionFailed as error:
            return Begun((failed(step, "EXPRESSION_FAILED", str(error)),))
        except NotCanonical as error:
            return Begun((failed(step, "VALUE_NOT_EXACT", error.message),))

    async def conclude(self, state: RunState) -> Event:
        """The run's end when all steps are finished: its output, validated."""
        names = self._names(state)
        try:
            output = await self._render(self._definition.result, names)
        except ExpressionFailed as error:
            return RunFailed("RESULT_FAILED", str(error))
        except NotCanonical as error:
            return RunFailed("RESULT_FAILED", error.message)
        wrong = violations(json.dumps(self._definition.output_schema), output)
        if wrong:
            path, message = wrong[0]
            return RunFailed("OUTPUT_INVALID", f"{'output.' + path if path else 'output'}: {message}")
        return RunSucceeded(output)

    def ask(
        self, state: RunState, step: Step, arguments: JsonValue, proposer: str, now: datetime, reason: str | None = None
    ) -> ApprovalRequested:
        """An approval of exactly these arguments."""
        gate = gate_of(step)
        if gate is None:
            raise ValueError(f"step {step.step_id} has no gate")
        return ApprovalRequested(
            step_id=step.step_id,
            approval_id=new_id("apr"),
            arguments=arguments,
            arguments_digest=digest(arguments),
            approvers=gate.approvers,
            proposer=proposer,
            expire_time=self._expiry(state, gate, now),
            tool=step.call.name if isinstance(step.call, ToolCall) else None,
            reason=reason,
        )

    async def _begin(
        self, state: RunState, step: Step, tool: ToolDescription | None, names: Names, now: datetime
    ) -> Begun:
        value: JsonValue
        match step.call:
            case SetValue(value=template):
                value = await self._render(template, names)
                return Begun(
                    (
                        StepStarted(step.step_id, step.type, 1, None),
                        StepCompleted(step.step_id, step.type, value, attempt=1),
                    )
                )
            case Retrieve(query=query, metadata=metadata):
                value = {
                    "collection": step.call.collection,
                    "query": await self._render(query, names),
                    "metadata": await self._render(dict(metadata), names),
                }
                return Begun((StepStarted(step.step_id, step.type, 1, value),))
            case ModelCall(prompt=prompt, system=system, context=context):
                value = {
                    "prompt": await self._render(prompt, names),
                    "system": await self._render(system, names),
                    "context": await self._render(context, names),
                }
                return Begun((StepStarted(step.step_id, step.type, 1, value),))
            case Approval(show=show):
                value = await self._render(show, names)
                started = StepStarted(step.step_id, step.type, 1, {"show": value})
                return Begun((started, self.ask(state, step, value, _proposer(state), now)))
            case ToolCall():
                return await self._begin_tool(state, step, step.call, tool, names, now)

    async def _begin_tool(
        self,
        state: RunState,
        step: Step,
        call: ToolCall,
        tool: ToolDescription | None,
        names: Names,
        now: datetime,
    ) -> Begun:
        if tool is None:
            return Begun((failed(step, "TOOL_NOT_FOUND", f"there is no tool {call.name}"),))
        arguments = await self._render(call.arguments, names)
        if len(json.dumps(arguments)) > MAX_ARGUMENTS:
            return Begun((failed(step, "ARGUMENTS_TOO_LARGE", f"more than {MAX_ARGUMENTS} bytes"),))
        schema = json.dumps(dict(tool.input_schema))
        wrong = violations(schema, arguments)
        if wrong:
            path, message = wrong[0]
            where = f"arguments.{path}" if path else "arguments"
            return Begun((failed(step, "INVALID_ARGUMENTS", f"{where}: {message}"),))
        forbidden = forbids_call(state, self._definition.limits, call_key(call.name, arguments), step)
        if forbidden is not None:
            return Begun((forbidden,))
        gate = call.gate
        if gate is not None and (gate.when is None or await self._true(gate.when, names)):
            return Begun((self.ask(state, step, arguments, _proposer(state), now),), schema)
        value: JsonValue = {"tool": call.name, "arguments": arguments}
        return Begun((StepStarted(step.step_id, step.type, 1, value),))

    def _names(self, state: RunState) -> Names:
        given = state.started.input if state.started else None
        steps: JsonValue = {name: {"output": output} for name, output in state.outputs().items()}
        declared = as_declared(dict(self._definition.input_schema), given)
        return Names({"input": given, "steps": steps}, {"input": declared, "steps": steps})

    async def _true(self, expression: str, names: Names) -> bool:
        value = await self._evaluator.evaluate(expression, names)
        if not isinstance(value, bool):
            raise ExpressionFailed(f"`{expression}` must be true or false, but is {json.dumps(value)[:80]}")
        return value

    async def _render(self, template: JsonValue, names: Names) -> JsonValue:
        async def evaluate(source: str) -> JsonValue:
            try:
                return await self._evaluator.evaluate(source, names)
            except ExpressionFailed as error:
                raise type(error)(f"`{source}`: {error}") from error

        value = await render(template, evaluate)
        canonical_json(value)
        return value

    def _expiry(self, state: RunState, gate: Gate, now: datetime) -> datetime:
        deadline = wall_deadline(state, self._definition.limits) or now
        return deadline if gate.expires is None else now + timedelta(seconds=gate.expires)


def failed(step: Step, code: str, message: str) -> StepFailed:
    """A step that failed before its effect."""
    handled = step.on_error == "continue"
    return StepFailed(step.step_id, step.type, 0, code, message[:2000], handled=handled)


def _proposer(state: RunState) -> str:
    return (state.started.proposer or state.started.caller) if state.started else ""
