"""A loop as steps: what it has done so far, and the step that comes next, as a pure function of its journal.

A loop is a workflow that grows as it goes: `begin`, `history` (on a session), then for each turn `turn_N`, its calls
`call_N_1`, `call_N_2`, … within `calls_N`, and `compact_N` when the conversation has grown too large; at last
`remember` (on a session). So turns and calls have gates, retries, limits and crashes in common with every other step.
"""

import json
from dataclasses import dataclass, field

from pydantic import JsonValue

from slipway_orchestrator.core.definition import (
    AgentCall,
    Call,
    Definition,
    History,
    Parallel,
    RefusedCall,
    Remember,
    Retrieve,
    Retry,
    SetValue,
    Step,
    Summary,
    ToolCall,
    Turn,
)
from slipway_orchestrator.core.loop.agent import MAX_CALLS, Loop, LoopAgent, LoopKnowledge, LoopTool
from slipway_orchestrator.core.loop.answer import Violations, read
from slipway_orchestrator.core.loop.conversation import Conversation, Message, result_text
from slipway_orchestrator.core.state import FINISHED, RunState, StepState

PATIENT = Retry(8, 1.0, 30.0, frozenset({"UNAVAILABLE"}))
"""An executor that is away for a minute (a restart, an upgrade) does not fail a run."""
TURN_RETRY = Retry(5, 1.0, 30.0, None)
TURN_TIMEOUT, SHORT_TIMEOUT = 300.0, 60.0  # seconds of one attempt


@dataclass(slots=True)
class Unrolled:
    """The steps of one run of a loop so far. Grows at its end."""

    definition: Definition
    loop: Loop
    violations: Violations
    steps: list[Step] = field(default_factory=list[Step])
    conversation: Conversation = field(init=False)
    absorbed: int = 0
    """Steps whose results the conversation holds."""
    turns: int = 0
    repairs: int = 0
    output: JsonValue = None
    fault: str | None = None
    """Why the answer cannot be the output."""
    history: list[Message] = field(default_factory=list[Message])

    def __post_init__(self) -> None:
        self.conversation = Conversation(self.loop.model.context_tokens)
        begin: JsonValue = {"instructions": self.loop.instructions, "prompt": self.loop.prompt}
        self.steps.append(_step("begin", SetValue(begin), PATIENT, 10.0))

    def grow(self, state: RunState) -> None:
        """Take in what has finished, and add what follows from it."""
        while self.absorbed < len(self.steps):
            step = self.steps[self.absorbed]
            known = state.steps.get(step.step_id)
            if known is None or known.phase not in FINISHED:
                return
            self.absorbed += 1
            self._absorb(state, step, known)

    def _absorb(self, state: RunState, step: Step, known: StepState) -> None:
        session = state.started is not None and state.started.session_id is not None
        match step.call:
            case SetValue():
                if session:
                    self.steps.append(_step("history", History(), PATIENT, SHORT_TIMEOUT))
                else:
                    self._start(state)
            case History():
                self.history = _messages(known.output)
                self._start(state)
            case Turn():
                self._turned(known, session)
            case Parallel(steps=calls):
                self._called(state, calls)
                self._go_on()
            case Summary(through=through):
                self.conversation.compact(through, _text_of(known.output))
                self._next_turn()
            case _:
                pass

    def _start(self, state: RunState) -> None:
        begun = state.steps["begin"].output
        texts = begun if isinstance(begun, dict) else {}
        prompt = texts.get("prompt")
        asked = _asked(state) if prompt is None else _as_text(prompt)
        self.conversation.begin(_as_text(texts.get("instructions")), self.history, asked)
        self._next_turn()

    def _next_turn(self) -> None:
        self.turns += 1
        call = Turn(self.turns, self.conversation.sent())
        self.steps.append(_step(f"turn_{self.turns}", call, TURN_RETRY, TURN_TIMEOUT))

    def _go_on(self) -> None:
        """The next turn, after the conversation was summarised if it has grown too large."""
        cut = self.conversation.cut()
        if cut is None:
            self._next_turn()
            return
        call = Summary(cut, self.conversation.sent().until(cut))
        self.steps.append(_step(f"compact_{self.turns}", call, TURN_RETRY, TURN_TIMEOUT))

    def _turned(self, known: StepState, session: bool) -> None:
        text, calls = _text_of(known.output), _calls(known.output)
        message: Message = {"role": "assistant", "content": text or None}
        if calls:
            self.conversation.turn({**message, "tool_calls": list[JsonValue](calls)})
            children = [self._call(f"call_{self.turns}_{number}", call) for number, call in enumerate(calls, start=1)]
            self.steps.append(
                _step(f"calls_{self.turns}", Parallel(tuple(children)), PATIENT, SHORT_TIMEOUT, named=False)
            )
            return
        self.conversation.turn(message)
        self.output, self.fault = read(text, self.definition.output_schema, self.violations)
        if self.fault is not None and self.repairs < self.loop.repairs:
            self.repairs += 1
            told = f"Your answer does not fit: {self.fault}. Answer again, with nothing but JSON that fits the schema."
            self.conversation.add({"role": "user", "content": told})
            self._go_on()
        elif self.fault is None and session:
            said = (self.conversation.prompt[-1], message)
            self.steps.append(_step("remember", Remember(said), PATIENT, SHORT_TIMEOUT, on_error="continue"))

    def _called(self, state: RunState, calls: tuple[Step, ...]) -> None:
        turn = self.conversation.turns[self.conversation.boundaries[-1]]
        asked = turn.get("tool_calls")
        most = self.conversation.result_characters(len(calls))
        for step, call in zip(calls, asked if isinstance(asked, list) else [], strict=True):
            known = state.steps[step.step_id]
            call_id = call["id"] if isinstance(call, dict) else ""
            self.conversation.add({"role": "tool", "tool_call_id": call_id, "content": result_text(known, most)})

    def _call(self, step_id: str, call: dict[str, JsonValue]) -> Step:
        name, number = str(call["name"]), int(step_id.rpartition("_")[2])
        callee = self.loop.callees().get(name)
        if number > MAX_CALLS:
            return _refused(step_id, "TOO_MANY_CALLS", f"a turn makes at most {MAX_CALLS} calls")
        if callee is None:
            known = ", ".join(self.loop.callees()) or "none"
            return _refused(step_id, "TOOL_NOT_FOUND", f"there is no tool {name}; there are: {known}")
        arguments = _arguments(str(call["arguments"]))
        if arguments is None:
            return _refused(step_id, "INVALID_ARGUMENTS", "the arguments of a call must be a JSON object")
        match callee:
            case LoopTool(gate=gate, retry=retry, timeout=timeout):
                return _literal(step_id, ToolCall(callee.name, arguments, gate), retry, timeout)
            case LoopKnowledge(collection=collection, limit=limit, alpha=alpha):
                query = arguments.get("query")
                if not isinstance(query, str) or not query.strip():
                    return _refused(step_id, "INVALID_ARGUMENTS", "arguments.query: must be a text that is not empty")
                return _literal(step_id, Retrieve(collection, query, limit, alpha, {}), PATIENT, SHORT_TIMEOUT)
            case LoopAgent(version=version):
                return _literal(step_id, AgentCall(callee.name, arguments, version), PATIENT, SHORT_TIMEOUT)


def _step(
    step_id: str, call: Call, retry: Retry, timeout: float, *, named: bool = True, on_error: str = "fail"
) -> Step:
    return Step(step_id, call, None, retry, on_error, timeout, named)


def _literal(step_id: str, call: Call, retry: Retry, timeout: float) -> Step:
    """A call as the model asked for it: nothing in it is an expression, and its failure is told to the model."""
    return Step(step_id, call, None, retry, "continue", timeout, literal=True)


def _refused(step_id: str, code: str, message: str) -> Step:
    return _literal(step_id, RefusedCall(code, message), PATIENT, SHORT_TIMEOUT)


def _asked(state: RunState) -> str:
    given = state.started.input if state.started else None
    message = given.get("message") if isinstance(given, dict) else None
    return message if isinstance(message, str) else json.dumps(given, ensure_ascii=False)


def _as_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _text_of(output: JsonValue) -> str:
    return str(output.get("text") or "") if isinstance(output, dict) else ""


def _calls(output: JsonValue) -> list[dict[str, JsonValue]]:
    calls = output.get("tool_calls") if isinstance(output, dict) else None
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _messages(output: JsonValue) -> list[Message]:
    messages = output.get("messages") if isinstance(output, dict) else None
    return [item for item in messages if isinstance(item, dict)] if isinstance(messages, list) else []


def _arguments(text: str) -> dict[str, JsonValue] | None:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
