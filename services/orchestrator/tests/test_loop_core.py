"""Loops as pure functions of their journals: what the model is sent, what it may call, when it is done."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from slipway_orchestrator.core.definition import Definition, Limits, Parallel, RefusedCall, Retry, Step, ToolCall
from slipway_orchestrator.core.events import Event, RunStarted, StepCompleted, StepFailed, StepStarted
from slipway_orchestrator.core.loop.agent import Loop, LoopKnowledge, LoopModel, LoopTool, function_name
from slipway_orchestrator.core.loop.conversation import Conversation, tokens
from slipway_orchestrator.core.loop.unrolling import Unrolled
from slipway_orchestrator.core.state import RunState, fold
from slipway_orchestrator.definitions.json_schema import violations

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT: dict[str, Any] = {"type": "string"}
SUM: dict[str, Any] = {"type": "object", "required": ["sum"], "properties": {"sum": {"type": "integer"}}}


def definition(output: dict[str, Any] = TEXT, window: int = 10_000, repairs: int = 2) -> tuple[Definition, Loop]:
    loop = Loop(
        instructions="Be brief.",
        prompt=None,
        model=LoopModel("", "m", None, None, window),
        tools=(LoopTool("ledger.post", None, Retry(1, 1.0, 1.0, None), 10.0),),
        knowledge=(LoopKnowledge("handbook", 4, None),),
        agents=(),
        repairs=repairs,
    )
    limits = Limits(100, 100_000, Decimal(1), 3600.0, 3, 3)
    return (
        Definition("desk", "", {}, {"type": "object"}, output, limits, None, (), None, loop=loop),
        loop,
    )


class Run:
    """A run of a loop, told step by step what happened."""

    def __init__(self, output: dict[str, Any] = TEXT, *, session: str | None = None, **more: Any) -> None:
        self.definition, self.loop = definition(output, **more)
        started = RunStarted("desk", 1, "d", "alice", {"message": "Sum?"}, {}, session_id=session)
        self.events: list[Event] = [started]
        self.state = fold([(NOW, started)])
        self.unrolled = self.fresh()
        self.does(
            StepStarted("begin", "set", 1, None), self.done("begin", {"instructions": "Be brief.", "prompt": None})
        )

    def fresh(self) -> Unrolled:
        text = json.dumps(dict(self.definition.output_schema))
        return Unrolled(self.definition, self.loop, lambda value: violations(text, value))

    def done(self, key: str, output: Any, type_: str = "set") -> StepCompleted:
        return StepCompleted(key, type_, output, attempt=1)

    def does(self, *events: Event) -> Step:
        """The step that the run comes to."""
        self.events += events
        fold([(NOW, event) for event in events], self.state)
        self.unrolled.grow(self.state)
        return self.unrolled.steps[-1]

    def turn(self, text: str = "", **calls: str) -> Step:
        """The model answers, or calls (name=arguments)."""
        asked = [{"id": f"c{n}", "name": name, "arguments": value} for n, (name, value) in enumerate(calls.items())]
        key = self.unrolled.steps[-1].step_id
        return self.does(
            StepStarted(key, "model", 1, None), self.done(key, {"text": text, "tool_calls": asked}, "model")
        )

    def results(self, *outputs: Any) -> Step:
        step = self.unrolled.steps[-1]
        assert isinstance(step.call, Parallel)
        events: list[Event] = [StepStarted(step.step_id, "parallel", 1, None)]
        for child, output in zip(step.call.steps, outputs, strict=True):
            if isinstance(output, StepFailed):
                events.append(replace(output, step_id=child.step_id))
            else:
                events.append(StepStarted(child.step_id, child.type, 1, {"tool": "t", "arguments": {}}))
                events.append(self.done(child.step_id, output, child.type))
        return self.does(*events, self.done(step.step_id, None, "parallel"))

    def sent(self) -> list[dict[str, Any]]:
        call = self.unrolled.steps[-1].call
        return call.sent.messages()  # type: ignore[union-attr]


def test_the_first_turn_is_sent_the_instructions_and_what_is_asked() -> None:
    run = Run()
    assert run.unrolled.steps[-1].step_id == "turn_1"
    assert run.sent() == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sum?"}]


def test_calls_of_a_turn_run_beside_each_other_and_their_results_go_to_the_next_in_their_order() -> None:
    run = Run()
    calls = run.turn(ledger_post='{"amount": 3}', search_handbook='{"query": "sums"}')
    assert isinstance(calls.call, Parallel)
    post, search = calls.call.steps
    assert post.call == ToolCall("ledger.post", {"amount": 3}, None)
    assert post.literal
    assert search.type == "retrieve"
    assert run.results({"posted": 3}, {"passages": []}).step_id == "turn_2"
    assistant, *told = run.sent()[2:]
    assert [call["name"] for call in assistant["tool_calls"]] == ["ledger_post", "search_handbook"]
    assert [(item["tool_call_id"], item["content"]) for item in told] == [
        ("c0", '{"posted": 3}'),
        ("c1", '{"passages": []}'),
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("nothing", "{}", "TOOL_NOT_FOUND"),
        ("ledger_post", "{", "INVALID_ARGUMENTS"),
        ("ledger_post", "[1]", "INVALID_ARGUMENTS"),
        ("ledger_post", "[" * 100_000, "INVALID_ARGUMENTS"),
        ("search_handbook", '{"query": 3}', "INVALID_ARGUMENTS"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_with_a_reason(name: str, arguments: str, code: str) -> None:
    calls = Run().turn(**{name: arguments})
    assert isinstance(calls.call, Parallel)
    (child,) = calls.call.steps
    assert isinstance(child.call, RefusedCall)
    assert child.call.code == code
    assert child.on_error == "continue"


def test_the_model_is_told_why_a_call_failed() -> None:
    run = Run()
    run.turn(ledger_post='{"amount": 3}')
    run.results(StepFailed("", "tool", 0, "APPROVAL_REJECTED", "too much, ask for 2", handled=True))
    assert run.sent()[-1]["content"] == "Error APPROVAL_REJECTED: too much, ask for 2"


def test_a_text_answer_is_the_output() -> None:
    run = Run()
    run.turn("It is 3.")
    assert (run.unrolled.output, run.unrolled.fault) == ("It is 3.", None)
    assert run.unrolled.absorbed == len(run.unrolled.steps)


def test_an_answer_that_does_not_fit_is_repaired_a_bounded_number_of_times() -> None:
    run = Run(SUM, repairs=1)
    assert run.turn("three").step_id == "turn_2"
    assert "it is no JSON" in run.sent()[-1]["content"]
    run.turn('```json\n{"sum": "3"}\n```')
    assert run.unrolled.absorbed == len(run.unrolled.steps)
    assert run.unrolled.fault == "sum: '3' is not of type 'integer'"

    repaired = Run(SUM, repairs=1)
    repaired.turn("three")
    repaired.turn('{"sum": 3}')
    assert (repaired.unrolled.output, repaired.unrolled.fault) == ({"sum": 3}, None)


def test_a_session_is_read_first_and_added_to_last() -> None:
    run = Run(session="ses_1")
    assert run.unrolled.steps[-1].type == "history"
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    run.does(StepStarted("history", "history", 1, {}), run.done("history", {"messages": before}, "history"))
    assert run.sent()[1:] == [*before, {"role": "user", "content": "Sum?"}]
    last = run.turn("3")
    assert last.type == "remember"
    assert last.on_error == "continue"


def test_a_large_conversation_is_summed_up_and_stays_within_its_window() -> None:
    run = Run(window=2_000)
    for number in range(40):
        if run.unrolled.steps[-1].type == "summary":
            key = run.unrolled.steps[-1].step_id
            text = run.unrolled.steps[-1].call.text  # type: ignore[union-attr]
            assert len(text) <= 2_000 * 3
            run.does(StepStarted(key, "summary", 1, {}), run.done(key, {"text": f"notes {number}"}, "summary"))
        sent = run.sent()
        assert sum(map(tokens, sent)) <= 2_000
        assert sent[1]["content"] == "Sum?"
        run.turn(ledger_post='{"amount": 1}', search_handbook='{"query": "x"}')
        run.results({"posted": "y" * 100_000}, {"passages": ["z" * 300]})
    assert any(step.type == "summary" for step in run.unrolled.steps)
    assert any("notes" in str(message["content"]) for message in run.sent()[:3])


def test_a_conversation_follows_from_the_journal_alone() -> None:
    run = Run(window=2_000)
    for _ in range(6):
        run.turn(ledger_post='{"amount": 1}')
        run.results({"posted": "y" * 2_000})
        if run.unrolled.steps[-1].type == "summary":
            key = run.unrolled.steps[-1].step_id
            run.does(StepStarted(key, "summary", 1, {}), run.done(key, {"text": "notes"}, "summary"))
    again, state = run.fresh(), RunState()
    fold([(NOW, event) for event in run.events], state)
    again.grow(state)
    assert [step.step_id for step in again.steps] == [step.step_id for step in run.unrolled.steps]
    assert again.steps[-1].call.sent.messages() == run.sent()  # type: ignore[union-attr]


def test_a_result_of_one_turn_never_fills_the_window() -> None:
    conversation = Conversation(window=3_000)
    assert conversation.result_characters(1) * 1 <= 3_000
    assert conversation.result_characters(4) * 4 <= 3_000


def test_names_of_tools_are_such_as_providers_take() -> None:
    retry = Retry(1, 1.0, 1.0, None)
    assert function_name(LoopTool("ledger.post", None, retry, 1.0)) == "ledger_post"
    assert function_name(LoopKnowledge("a" * 63, 4, None)) == ("search_" + "a" * 63)[:64]
