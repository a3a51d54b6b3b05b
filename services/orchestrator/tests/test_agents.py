"""Registration: what is refused and where, versions, four eyes, promotion and rollback."""

import json
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, workflow
from orchestrator_testing.stack import Stack
from slipway.agents.v1 import agents_pb2
from slipway_chassis.errors import SlipwayError

ONE = "    - {id: one, set: 1}"


async def _violations(stack: Stack, definition: str) -> dict[str, str]:
    with pytest.raises(SlipwayError) as caught:
        await stack.put(definition)
    assert caught.value.reason == "AGENT_INVALID"
    return {violation.field: violation.message for violation in caught.value.violations}


WRONG: list[tuple[str, str, str]] = [
    (workflow("    - {id: one, set: 1, colour: red}"), "spec.steps[0].colour", "unknown field"),
    (workflow(ONE + "\n" + ONE), "spec.steps[1].id", "already"),
    (workflow("    - {id: one, set: '${input.mesage}'}"), "spec.steps[0].set", "no such property"),
    (workflow("    - {id: one, set: '${steps.two.output}'}\n    - {id: two, set: 1}"), "spec.steps[0].set", "not run"),
    (workflow("    - {id: one, set: '${steps.three.output}'}"), "spec.steps[0].set", "there is no step three"),
    (workflow("    - {id: one, set: '${input.message +}'}"), "spec.steps[0].set", "does not compile"),
    (workflow("    - {id: one, set: '${input.message + 1}'}"), "spec.steps[0].set", "CEL does not coerce"),
    (workflow("    - {id: one, set: '${secrets.token}'}"), "spec.steps[0].set", "unknown name secrets"),
    (workflow("    - {id: one, set: '${[1].map(x, [2].map(y, x))}'}"), "spec.steps[0].set", "must not nest"),
    (workflow("    - {id: one, set: 'a ${input.message'}"), "spec.steps[0].set", "not closed"),
    (workflow("    - {id: one, when: input.message, set: 1}"), "spec.steps[0].when", "true or false"),
    (workflow(ONE, "{x: '${steps.one.value}'}"), "spec.result.x", "only `output`"),
    (workflow(ONE, limits=LIMITS.replace("repeats: 3, ", "")), "spec.limits.repeats", "is missing"),
    (workflow(ONE, limits=LIMITS.replace("on_limit: fail", "on_limit: stop")), "spec.limits.on_limit", "fail, pause"),
    (workflow(ONE, limits=LIMITS.replace("wall_time: ", "wall_time: x")), "spec.limits.wall_time", "at most 366d"),
    (workflow("    - {id: one, timeout: 2h, set: 1}"), "spec.steps[0].timeout", "at most 1h"),
    (workflow("    - {id: one, on_error: escalate, set: 1}"), "spec.steps[0].on_error", "no attempt"),
    (workflow("    - {id: one, on_error: two, set: 1}"), "spec.steps[0].on_error", "no step two"),
    (
        workflow("    - {id: one, set: 1}\n    - {id: two, on_error: one, set: 1}"),
        "spec.steps[1].on_error",
        "a cycle",
    ),
    (workflow("    - {id: one, parallel: []}"), "spec.steps[0].parallel", "at least one step"),
    (workflow("    - {id: fail, set: 1}"), "spec.steps[0].id", "are taken"),
    (workflow("    - {id: one, agent: {name: refund-desk}}"), "spec.steps[0].agent.name", "cannot call itself"),
    (workflow("    - {id: one, agent: {name: nobody}}"), "spec.steps[0].agent.name", "no agent nobody"),
    (workflow(ONE).replace("type: workflow", "type: remote"), "spec.type", "must be workflow or loop"),
    (workflow("    - {id: one, tool: {name: nope}}"), "spec.steps[0].tool.name", "no tool nope"),
    (workflow("    - {id: one, model: {model: nope, prompt: x}}"), "spec.steps[0].model.model", "model or task nope"),
    (workflow("    - {id: one, model: {task: nope, prompt: x}}"), "spec.steps[0].model.task", "model or task nope"),
    (
        workflow("    - {id: one, approval: {show: x, approvers: [role:reviewer, role:nobody]}}"),
        "spec.steps[0].approval.approvers[1]",
        "nobody knows role:nobody",
    ),
    (workflow("    - {id: one, tool: {name: python}}"), "spec.steps[0].tool.arguments.code", "is missing"),
    (
        workflow("    - {id: one, tool: {name: ledger.post, arguments: {amount: much}}}"),
        "spec.steps[0].tool.arguments.amount",
        "not of type 'number'",
    ),
    (
        workflow("    - {id: one, tool: {name: ledger.post, arguments: {amount: 1, sum: 2}}}"),
        "spec.steps[0].tool.arguments.sum",
        "no such argument",
    ),
    (
        workflow("    - {id: one, retrieve: {collection: attic, query: x}}"),
        "spec.steps[0].retrieve.collection",
        "no collection attic",
    ),
    (
        workflow("    - {id: one, approval: {show: x, approvers: [bob]}}"),
        "spec.steps[0].approval.approvers[0]",
        "role:NAME or user:NAME",
    ),
    (workflow(ONE, output="{type: objekt}"), "spec.output.type", "not valid"),
    (workflow(ONE, output="{$ref: 'https://example.com/x.json'}"), "spec.output.$ref", "same schema"),
    (workflow(ONE, output="{$ref: '#'}"), "spec.output", "without end"),
    (workflow(ONE).replace("name: refund-desk", "name: other"), "metadata.name", "must be refund-desk"),
    (workflow("    - {id: one, set: &a 1}\n    - {id: two, set: *a}"), "spec.steps[0].set", "anchors"),
    ("kind: [", "definition", "is no YAML"),
    ("", "definition", "is empty"),
    (workflow(ONE, more="  regions: []"), "spec.regions", "not empty"),
]


async def test_every_mistake_is_refused_with_its_path_and_line(stack: Stack) -> None:
    for definition, path, word in WRONG:
        found = await _violations(stack, definition)
        message = next((text for field, text in found.items() if field.startswith(path)), None)
        assert message is not None, (path, found)
        assert word in message, (path, message)
        assert message.startswith("line "), message


async def test_a_definition_that_is_too_large_or_nested_without_end_is_refused_at_once(stack: Stack) -> None:
    for text in (workflow(ONE) + "#" * 10_000_000, "{a: " * 1000, workflow("    - " + "{parallel: [" * 100)):
        found = await _violations(stack, text)
        message = next(iter(found.values()))
        assert any(word in message for word in ("more than 1048576 bytes", "nested too deeply", "is no YAML")), message


async def test_all_mistakes_are_told_at_once(stack: Stack) -> None:
    found = await _violations(stack, workflow("    - {id: A, set: 1}\n    - {id: two, set: '${nope}', x: 1}", "{}"))
    assert {"spec.steps[0].id", "spec.steps[1].set", "spec.steps[1].x"} <= set(found)


async def test_the_same_definition_is_the_same_version_also_as_json_or_in_another_order(stack: Stack) -> None:
    first = await stack.put(workflow(ONE))
    again = await stack.put(workflow(ONE) + "\n# a comment")
    as_json = json.dumps(
        {
            "kind": "Agent",
            "apiVersion": "slipway.dev/v1",
            "metadata": {"name": "refund-desk"},
            "spec": {
                "result": {},
                "type": "workflow",
                "input": {"type": "object", "properties": {"message": {"type": "string"}}},
                "output": {"type": "object"},
                "limits": {
                    "steps": 40,
                    "tokens": 60000,
                    "cost_usd": 0.5,
                    "wall_time": "2d",
                    "tool_errors": 3,
                    "repeats": 3,
                    "on_limit": "fail",
                },
                "steps": [{"id": "one", "set": 1}],
            },
        }
    )
    third = await stack.put(as_json)
    assert [first.created, again.created, third.created] == [True, False, False]
    assert {first.version.digest} == {again.version.digest, third.version.digest}
    other = await stack.put(workflow(ONE, "{a: 1}"))
    assert (other.created, other.version.version) == (True, 2)


async def test_a_version_reaches_production_only_through_another_person(stack: Stack) -> None:
    await stack.put(workflow(ONE))
    agents = stack.agents
    number: dict[str, Any] = {"agent": "refund-desk", "version": 1}

    async def refused(method: Any, request: Any, who: str) -> str:
        with pytest.raises(SlipwayError) as caught:
            await stack.call(method, request, who)
        return caught.value.reason

    approve = agents_pb2.ApproveAgentVersionRequest(**number)
    promote = agents_pb2.PromoteAgentVersionRequest(**number)
    assert await refused(agents.ApproveAgentVersion, approve, "bob") == "ILLEGAL_TRANSITION"
    assert await refused(agents.PromoteAgentVersion, promote, "bob") == "ILLEGAL_TRANSITION"
    with pytest.raises(SlipwayError, match="in production"):
        await stack.begin()
    await stack.call(agents.SubmitAgentVersion, agents_pb2.SubmitAgentVersionRequest(**number))
    assert await refused(agents.ApproveAgentVersion, approve, "alice") == "POLICY_DENIED"
    assert await refused(agents.ApproveAgentVersion, approve, "gina") == "AGENT_NOT_FOUND"
    reject = agents_pb2.RejectAgentVersionRequest(**number, message="no limits?")
    rejected = (await stack.call(agents.RejectAgentVersion, reject, "bob")).version
    assert (rejected.state, rejected.review_message) == (4, "no limits?")
    await stack.call(agents.SubmitAgentVersion, agents_pb2.SubmitAgentVersionRequest(**number))
    approved = (await stack.call(agents.ApproveAgentVersion, approve, "bob")).version
    assert (approved.reviewer, approved.review_message) == ("bob", "")
    promoted = (await stack.call(agents.PromoteAgentVersion, promote, "bob")).agent
    assert promoted.production_version == 1


async def test_an_administrator_may_not_review_what_they_wrote_themselves(stack: Stack) -> None:
    await stack.put(workflow(ONE), "dave")
    number: dict[str, Any] = {"agent": "refund-desk", "version": 1}
    await stack.call(stack.agents.SubmitAgentVersion, agents_pb2.SubmitAgentVersionRequest(**number))
    with pytest.raises(SlipwayError) as caught:
        await stack.call(stack.agents.ApproveAgentVersion, agents_pb2.ApproveAgentVersionRequest(**number), "dave")
    assert caught.value.reason == "REVIEWER_IS_AUTHOR"


async def test_a_rollback_brings_the_version_before_back(stack: Stack) -> None:
    for result in ("{a: 1}", "{a: 2}", "{a: 3}"):
        await stack.promote(workflow(ONE, result))
    roll_back = agents_pb2.RollbackAgentRequest(agent="refund-desk")
    numbers = [
        (await stack.call(stack.agents.RollbackAgent, roll_back, "bob")).agent.production_version for _ in range(2)
    ]
    assert numbers == [2, 1]
    with pytest.raises(SlipwayError) as caught:
        await stack.call(stack.agents.RollbackAgent, roll_back, "bob")
    assert caught.value.reason == "NOTHING_TO_ROLL_BACK"
    versions = await stack.call(
        stack.agents.ListAgentVersions, agents_pb2.ListAgentVersionsRequest(agent="refund-desk", page_size=2)
    )
    assert [v.version for v in versions.versions] == [3, 2]
    assert versions.next_page_token


async def test_who_may_not_register_agents_cannot(stack: Stack) -> None:
    with pytest.raises(SlipwayError) as caught:
        await stack.put(workflow(ONE), "erin")
    assert caught.value.reason == "POLICY_DENIED"
