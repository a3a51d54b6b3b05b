"""Loop agents: a model chooses tools, hands tasks on, is corrected, and is stopped when it goes round in circles."""

import json
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2
from slipway_chassis.errors import RemoteError

SCHEMA = "{type: object, required: [sum], properties: {sum: {type: integer}}, additionalProperties: false}"
Reply = str | list[tuple[str, str]]


def loop(more: str = "", *, name: str = "refund-desk", output: str = "{type: string}", limits: str = LIMITS) -> str:
    return f"""
apiVersion: slipway.dev/v1
kind: Agent
metadata: {{name: {name}}}
spec:
  type: loop
  description: Adds what it is told.
  input: {{type: object, properties: {{message: {{type: string}}}}}}
  output: {output}
  limits: {limits}
  instructions: "Work for ${{input.message}}."
  model: {{model: big, max_tokens: 500, context_tokens: 2000}}
{more}
"""


TOOLS = """
  tools:
    - python
    - name: ledger.post
      approval: {when: "arguments.amount > 100", approvers: ["role:refund-approver"], expires: 7d}
  knowledge: [handbook]
"""


def script(world: World, *replies: Reply) -> None:
    """The model says these one after the other, and then the last again."""
    turns = iter(replies)

    def reply(chat: Any) -> Reply:
        return next(turns, replies[-1])

    world.reply = reply


def told(world: World, turn: int) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in world.chats[turn].messages]


def steps(events: list[Any], kind: str) -> list[str]:
    return [event.step_id for event in events if event.kind == kind]


@pytest.fixture
async def busy(stack: Stack) -> Stack:
    await stack.worker()
    return stack


async def test_the_model_calls_tools_beside_each_other_until_it_answers(busy: Stack, world: World) -> None:
    script(
        world,
        [("python", '{"code": "1"}'), ("ledger_post", '{"amount": 3}'), ("search_handbook", '{"query": "refunds"}')],
        "It is done.",
    )
    await busy.promote(loop(TOOLS))
    run = await busy.finish(await busy.begin({"message": "me"}))
    assert json.loads(run.output_json) == "It is done."
    assert told(world, 0) == [("system", "Work for me."), ("user", "me")]
    offered = {
        tool["function"]["name"]: tool["function"]["parameters"] for tool in json.loads(world.chats[0].tools_json)
    }
    assert set(offered) == {"python", "ledger_post", "search_handbook"}
    assert offered["ledger_post"]["required"] == ["amount"]
    *_, assistant, code, post, search = world.chats[1].messages
    assert [call.name for call in assistant.tool_calls] == ["python", "ledger_post", "search_handbook"]
    assert [code.content, post.content] == ['{"refund": 120}', '{"posted": 3}']
    assert "paid in full" in search.content
    assert run.usage.input_tokens == 20
    events = await busy.journal(run.run_id)
    completed = steps(events, "step.completed")
    assert [step for step in completed if not step.startswith("call_")] == ["begin", "turn_1", "calls_1", "turn_2"]
    assert sorted(step for step in completed if step.startswith("call_")) == ["call_1_1", "call_1_2", "call_1_3"]
    assert all(count == 1 for count in world.effects.values())


async def test_what_a_model_writes_is_never_an_expression(busy: Stack, world: World) -> None:
    script(world, [("python", '{"code": "${input.message}"}'), ("search_handbook", '{"query": "${1/0}"}')], "ok")
    seen: list[Any] = []

    async def tool(name: str, arguments: Any, attempt: int) -> Any:
        seen.append(arguments)
        return {}

    world.tool = tool
    await busy.promote(loop(TOOLS))
    run = await busy.finish(await busy.begin({"message": "secret"}))
    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED
    assert seen == [{"code": "${input.message}"}]


async def test_a_call_that_cannot_be_made_is_told_to_the_model_and_ends_the_run_when_it_goes_on(
    busy: Stack, world: World
) -> None:
    script(world, [("nothing", "{}")], [("ledger_post", '{"amount": "x"}')], "I give up.")
    await busy.promote(loop(TOOLS))
    run = await busy.finish(await busy.begin())
    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED
    assert told(world, 1)[-1] == (
        "tool",
        "Error TOOL_NOT_FOUND: there is no tool nothing; there are: python, ledger_post, search_handbook",
    )
    assert told(world, 2)[-1][1].startswith("Error INVALID_ARGUMENTS: arguments.amount: 'x' is not of type 'number'")

    script(world, *([("ledger_post", f'{{"sum": {n}}}')] for n in range(9)))
    failed = await busy.finish(await busy.begin())
    assert failed.error.code == "LIMIT_TOOL_ERRORS"


async def test_a_gate_looks_at_the_arguments_and_the_model_hears_the_reason(busy: Stack, world: World) -> None:
    script(world, [("ledger_post", '{"amount": 300}')], [("ledger_post", '{"amount": 200}')], "Paid.")
    await busy.promote(loop(TOOLS))
    run_id = await busy.begin()
    first = await busy.pending(run_id)
    assert json.loads(first.arguments_json) == {"amount": 300}
    await busy.decide(first, "reject", message="at most 200")
    await busy.watch(run_id, after=(await busy.get(run_id)).last_seq, until="approval.requested")
    run = await busy.get(run_id)
    assert told(world, 1)[-1] == ("tool", "Error APPROVAL_REJECTED: at most 200")
    request = runs_pb2.GetApprovalRequest(approval_id=run.pending_approval_ids[0])
    second = (await busy.call(busy.runs.GetApproval, request, "bob")).approval
    await busy.decide(second, "respond", arguments_json='{"posted": 0}', message="done by hand")
    run = await busy.finish(run_id)
    assert json.loads(run.output_json) == "Paid."
    assert told(world, 2)[-1] == ("tool", '{"posted": 0}')
    assert not any("call" in key for key in world.effects)


async def test_structured_output_is_asked_for_and_repaired(busy: Stack, world: World) -> None:
    script(world, "three", '{"sum": "3"}', '{"sum": 3}')
    await busy.promote(loop(output=SCHEMA))
    run = await busy.finish(await busy.begin())
    assert json.loads(run.output_json) == {"sum": 3}
    assert json.loads(world.chats[0].response_format_json)["json_schema"]["schema"]["required"] == ["sum"]
    assert "is not of type 'integer'" in told(world, 2)[-1][1]

    script(world, "three")
    failed = await busy.finish(await busy.begin())
    assert failed.error.code == "OUTPUT_INVALID"


async def test_the_same_call_over_and_over_ends_or_pauses_the_run_with_the_evidence(busy: Stack, world: World) -> None:
    script(world, [("python", '{"code": "1"}')])
    await busy.promote(loop(TOOLS))
    failed = await busy.finish(await busy.begin())
    assert failed.error.code == "LIMIT_REPEATS"
    detected = [event for event in await busy.journal(failed.run_id) if event.kind == "loop.detected"]
    assert json.loads(detected[0].data_json)["pattern"] == "REPEAT"

    def a_b_a_b(chat: Any) -> Reply:
        return [("python", json.dumps({"code": str(len(chat.messages) % 4)}))]

    world.reply = a_b_a_b
    await busy.promote(loop(TOOLS, limits=LIMITS.replace("on_limit: fail", "on_limit: pause")))
    run_id = await busy.begin()
    events = await busy.watch(run_id, until="run.paused")
    paused = json.loads(events[-1].data_json)
    assert paused["code"] == "LOOP_DETECTED"
    assert json.loads(next(e for e in events if e.kind == "loop.detected").data_json)["pattern"] == "CYCLE"


async def test_a_task_is_handed_to_another_agent(busy: Stack, world: World) -> None:
    await busy.promote(
        workflow("    - {id: twice, set: \"${input.n * 2}\"}", "{twice: \"${steps.twice.output}\"}", name="doubler",
                 properties="{n: {type: integer}}"),
        name="doubler",
    )  # fmt: skip
    script(world, [("agent_doubler", '{"n": 21}'), ("agent_doubler", '{"m": 1, "n": "x"}')], "It is 42.")
    await busy.promote(loop("  agents: [{name: doubler, description: Doubles n.}]"))
    run = await busy.finish(await busy.begin())
    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, run.error
    tool = json.loads(world.chats[0].tools_json)[0]["function"]
    assert (tool["description"], tool["parameters"]["properties"]) == ("Doubles n.", {"n": {"type": "integer"}})
    first, second = told(world, 1)[-2:]
    assert first == ("tool", '{"twice": 42}')
    assert second[1].startswith("Error INPUT_INVALID: input.n:")


async def test_a_conversation_goes_on_over_the_runs_of_a_session(busy: Stack, world: World) -> None:
    script(world, "Hello Ann.")
    await busy.promote(loop())
    await busy.finish(await busy.begin({"message": "I am Ann."}, session_id="ses_1"))
    script(world, "You are Ann.")
    await busy.finish(await busy.begin({"message": "Who am I?"}, session_id="ses_1"))
    assert told(world, 1)[1:] == [("user", "I am Ann."), ("assistant", "Hello Ann."), ("user", "Who am I?")]
    assert world.said["ses_1"][-1] == ("assistant", "You are Ann.")


async def test_a_long_conversation_is_summed_up_in_a_step_of_its_own(busy: Stack, world: World) -> None:
    async def tool(name: str, arguments: Any, attempt: int) -> Any:
        return {"text": "x" * 50_000}

    world.tool = tool
    turns = 0

    def reply(chat: Any) -> Reply:
        nonlocal turns
        if "keep the notes" in chat.messages[0].content:
            return "NOTES"
        turns += 1
        return "Done." if turns > 6 else [("python", json.dumps({"code": str(turns)}))]

    world.reply = reply
    await busy.promote(loop(TOOLS))
    run = await busy.finish(await busy.begin())
    assert json.loads(run.output_json) == "Done."
    events = await busy.journal(run.run_id)
    assert any(step.startswith("compact_") for step in steps(events, "step.completed"))
    assert any("NOTES" in content for _, content in told(world, -1))
    for chat in world.chats:
        assert sum(len(message.content) for message in chat.messages) <= 2000 * 3


async def test_a_loop_killed_between_its_turns_goes_on_where_it_was(stack: Stack, world: World) -> None:
    script(world, [("python", '{"code": "1"}')], [("ledger_post", '{"amount": 2}')], "Done.")
    await stack.promote(loop(TOOLS))
    killed = await stack.worker(SLIPWAY_ORCHESTRATOR_CRASH_AT="after-effect:3", SLIPWAY_ORCHESTRATOR_LEASE_SECONDS="2")
    run_id = await stack.begin()
    await killed.ended()
    await stack.worker(SLIPWAY_ORCHESTRATOR_LEASE_SECONDS="2")
    run = await stack.finish(run_id)
    assert json.loads(run.output_json) == "Done."
    assert all(count == 1 for count in world.effects.values()), world.effects


WRONG = [
    ("  tools: [nope]", "spec.tools[0]", "there is no tool nope"),
    ("  knowledge: [nope]", "spec.knowledge[0]", "there is no collection nope"),
    ("  agents: [nope]", "spec.agents[0]", "there is no agent nope"),
    ("  agents: [refund-desk]", "spec.agents[0]", "an agent cannot call itself"),
    ("  tools: [python, {name: python}]", "spec.tools[1]", "the name that the model sees, stands for two things"),
    ("  steps: []", "spec.steps", "unknown field"),
    ('  prompt: "${steps.a.output}"', "spec.prompt", "there is no step a"),
    (
        "  tools: [{name: ledger.post, approval: {when: arguments.sum > 1, approvers: ['role:refund-approver']}}]",
        "spec.tools[0].approval.when",
        "sum",
    ),
    (
        "  tools: [{name: ledger.post, approval: {approvers: ['role:nobody']}}]",
        "spec.tools[0].approval.approvers[0]",
        "nobody knows role:nobody",
    ),
]


async def test_a_loop_that_names_what_is_not_there_is_refused(stack: Stack) -> None:
    for more, path, message in WRONG:
        with pytest.raises(RemoteError) as refused:
            await stack.put(loop(more))
        found = {violation.field: violation.message for violation in refused.value.violations}
        assert message in found.get(path, ""), (more, found)
