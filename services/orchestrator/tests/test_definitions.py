"""Steps within steps in definitions: what is read, and what is refused with its path."""

import json
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, workflow
from slipway_orchestrator.core.definition import Branch, Definition, Map, Parallel, Wait
from slipway_orchestrator.definitions.names import check_names
from slipway_orchestrator.definitions.outputs import Known
from slipway_orchestrator.definitions.parse import Parsed, canonical_text, parse
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import read_yaml
from slipway_orchestrator.errors import AgentInvalid
from slipway_orchestrator.registry import stored_definition

TOOLS = {"list": {"type": "object", "properties": {"items": {"type": "array", "items": {"type": "integer"}}}}}


def read(text: str) -> Parsed:
    problems = Problems()
    root = read_yaml(text, problems)
    parsed = None if root is None else parse(root, problems)
    if parsed is not None:
        check_names(parsed, problems, Known(TOOLS, {}))
    problems.check()
    assert parsed is not None
    # What was registered is read back the same.
    assert root is not None
    assert stored_definition(canonical_text(root)) == parsed.definition
    return parsed


def definition(steps: str, **more: Any) -> Definition:
    return read(workflow(steps, **more)).definition


def refused(steps: str, **more: Any) -> dict[str, str]:
    with pytest.raises(AgentInvalid) as caught:
        definition(steps, **more)
    return {violation.field: violation.message for violation in caught.value.violations}


NESTED = """
    - {id: list, tool: {name: list}}
    - parallel:
        - {id: a, set: 1}
        - map:
            over: "${steps.list.output.items}"
            as: order
            concurrency: 3
            steps:
              - {id: twice, set: "${order * 2 + index}"}
              - branch:
                  - {when: "steps.twice.output > 3", steps: [{id: much, set: "${steps.twice.output}"}]}
                  - {else: true, steps: [{id: little, wait: {for: 1s}}]}
    - {id: cool, wait: {signal: "go-${steps.a.output}", expires: 2d}}
    - {id: all, set: "${steps.map_1.output}"}
"""


def test_steps_stand_within_steps_and_get_names_in_the_order_of_the_text() -> None:
    read_ = definition(NESTED)
    assert [step.step_id for step in read_.walk()] == [
        "list",
        "parallel_1",
        "a",
        "map_1",
        "twice",
        "branch_1",
        "much",
        "little",
        "cool",
        "all",
    ]
    parallel = read_.step("parallel_1")
    assert isinstance(parallel.call, Parallel)
    assert (parallel.named, read_.step("a").named) == (False, True)
    call = read_.step("map_1").call
    assert isinstance(call, Map)
    assert (call.name, call.concurrency, call.over) == ("order", 3, "${steps.list.output.items}")
    arms = read_.step("branch_1").call
    assert isinstance(arms, Branch)
    assert [arm.when for arm in arms.arms] == ["steps.twice.output > 3", None]
    wait = read_.step("cool").call
    assert isinstance(wait, Wait)
    assert (wait.signal, wait.expires) == ("go-${steps.a.output}", 172800.0)
    assert read_.journal_version == 2


def test_a_definition_of_the_first_release_stays_one() -> None:
    assert definition("    - {id: a, set: 1}").journal_version == 1
    gate = "approval: {show: x, approvers: [role:a], quorum: 2}"
    assert definition(f"    - {{id: a, {gate}}}").journal_version == 2
    assert definition("    - {id: a, set: 1}", limits=LIMITS.replace("fail", "pause")).journal_version == 2


WRONG: list[tuple[str, str, str]] = [
    (
        "    - parallel: [{id: a, set: 1}, {id: b, set: '${steps.a.output}'}]",
        "spec.steps[0].parallel[1].set",
        "step a runs at the same time",
    ),
    (
        "    - parallel: [{map: {over: [1], step: {id: a, set: 1}}}, {id: b, set: '${steps.a.output}'}]",
        "spec.steps[0].parallel[1].set",
        "within the map map_1",
    ),
    (
        "    - map: {over: [1], step: {id: a, set: 1}}\n    - {id: b, set: '${steps.a.output}'}",
        "spec.steps[1].set",
        "outside, use steps.map_1.output",
    ),
    (
        "    - map: {over: [1], step: {id: a, set: 1}}\n    - {id: b, set: '${item}'}",
        "spec.steps[1].set",
        "unknown name item",
    ),
    ("    - {id: b, set: '${index}'}", "spec.steps[0].set", "unknown name index"),
    ("    - map: {over: [1], as: x, step: {id: a, set: '${item}'}}", "spec.steps[0].map.step.set", "unknown name item"),
    ("    - map: {over: [1], as: input, step: {id: a, set: 1}}", "spec.steps[0].map.as", "not input"),
    ("    - map: {over: 3, step: {id: a, set: 1}}", "spec.steps[0].map.over", "must be a list"),
    ("    - map: {over: [1]}", "spec.steps[0].map", "exactly one of step, steps"),
    ("    - map: {over: [1], concurrency: 101, step: {id: a, set: 1}}", "spec.steps[0].map.concurrency", "from 1 to"),
    (
        "    - {id: l, tool: {name: list}}\n"
        "    - map: {over: '${steps.l.output.items}', step: {id: a, set: '${item + \"x\"}'}}",
        "spec.steps[1].map.step.set",
        "No such overload",
    ),
    (
        "    - {id: l, tool: {name: list}}\n    - map: {over: '${steps.l.output.itms}', step: {id: a, set: 1}}",
        "spec.steps[1].map.over",
        "no such property",
    ),
    (
        "    - {id: l, tool: {name: list}}\n    - {id: a, set: '${steps.l.output.items.startWith(\"x\")}'}",
        "spec.steps[1].set",
        "there is no function startWith",
    ),
    ("    - {id: a, set: '${string(input)}'}", "spec.steps[0].set", "string() takes no such value"),
    (
        "    - branch: [{else: true, steps: [{id: a, set: 1}]}, {when: 'true', steps: [{id: b, set: 1}]}]",
        "spec.steps[0].branch[0].else",
        "last arm",
    ),
    ("    - branch: [{steps: [{id: a, set: 1}]}]", "spec.steps[0].branch[0]", "exactly one of when, else"),
    (
        "    - branch: [{when: 'input.message', steps: [{id: a, set: 1}]}]",
        "spec.steps[0].branch[0].when",
        "true or false",
    ),
    (
        "    - branch:\n        - {when: 'true', steps: [{id: a, set: 1}]}\n"
        "        - {else: true, steps: [{id: b, set: '${steps.a.output}'}]}",
        "spec.steps[0].branch[1].steps[0].set",
        "has not run at this place",
    ),
    ("    - parallel: [{id: a, set: 1}, {id: a, set: 2}]", "spec.steps[0].parallel[1].id", "is the id of"),
    (
        "    - parallel: [{id: a, on_error: b, set: 1}, {id: b, set: 2}]",
        "spec.steps[0].parallel[0].on_error",
        "no later step",
    ),
    ("    - {id: a, wait: {for: 1s, signal: x}}", "spec.steps[0].wait", "exactly one of for, until, signal"),
    ("    - {id: a, wait: {for: 1s, expires: 1s}}", "spec.steps[0].wait.expires", "only a wait for a signal"),
    ("    - {id: a, wait: {until: tomorrow}}", "spec.steps[0].wait.until", "must be a time"),
    ("    - {id: a, wait: {for: 1s}, retry: {attempts: 2}}", "spec.steps[0].retry", "could be retried"),
    ("    - {id: a, wait: {for: 1s}, timeout: 2s}", "spec.steps[0].timeout", "no attempts"),
    ("    - parallel: [{set: 1}]", "spec.steps[0].parallel[0].id", "is missing"),
    (
        "    - {id: a, approval: {show: x, approvers: [user:bob], quorum: 2}}",
        "spec.steps[0].approval.quorum",
        "only 1 people are named",
    ),
    ("    - {id: a, set: '${steps.a.error.kode}'}", "spec.steps[0].set", "has not run at this place"),
]


@pytest.mark.parametrize(("steps", "path", "word"), WRONG)
def test_a_mistake_within_steps_is_refused_with_its_path(steps: str, path: str, word: str) -> None:
    found = refused(steps)
    assert path in found, found
    assert word in found[path], found[path]


def test_what_follows_a_branch_or_a_parallel_step_sees_what_may_have_run_in_it() -> None:
    steps = """
    - branch: [{when: 'true', steps: [{id: a, set: 1}]}, {else: true, steps: [{id: b, set: 2}]}]
    - parallel: [{id: c, set: "${steps.a.output == null ? steps.b.output : steps.a.output}"}, {id: d, set: 4}]
    - {id: e, set: "${steps.c.output + steps.d.output}"}
    - {id: f, on_error: h, tool: {name: list}}
    - {id: g, set: 1}
    - {id: h, set: "${steps.f.error.code}"}
"""
    assert definition(steps).step("f").handler == "h"


def test_the_inner_item_hides_the_outer_one_and_both_indices_can_be_had() -> None:
    steps = """
    - map:
        over: [[1], [2]]
        as: row
        step:
          map: {over: "${row}", step: {id: cell, set: "${item * 10 + index}"}}
"""
    assert [step.step_id for step in definition(steps).walk()] == ["map_1", "map_2", "cell"]


def test_what_else_a_definition_declares_is_read() -> None:
    more = """
  session: {concurrency: interrupt}
  scheduling: {concurrency: 4, worker_pool: gpu}
  loop_detection: {on: pause, turns_without_progress: 4}
  escalation: {approvers: [role:operator], expires: 2d, remind: 1d}
"""
    found = definition(
        "    - {id: a, approval: {show: x, approvers: [role:a], quorum: 3, remind: 1d}}",
        more=more,
        limits=LIMITS.replace("fail", "pause"),
    )
    assert found.session.concurrency == "interrupt"
    assert (found.scheduling.concurrency, found.scheduling.worker_pool) == (4, "gpu")
    assert found.loop_detection is not None
    assert (found.loop_detection.on, found.loop_detection.turns_without_progress) == ("pause", 4)
    assert (found.escalation.approvers, found.escalation.expires, found.escalation.remind) == (
        ("role:operator",),
        172800.0,
        86400.0,
    )
    assert found.limits.on_limit == "pause"


@pytest.mark.parametrize("levels", [11, 100, 5000])
def test_steps_that_are_nested_too_deeply_are_refused(levels: int) -> None:
    steps = "    - " + "{parallel: [" * levels + "{id: a, set: 1}" + "]}" * levels
    found = refused(steps)
    assert any("deep" in message for message in found.values()), found


def test_too_many_steps_are_refused() -> None:
    steps = json.dumps([{"id": f"s{n}", "set": n} for n in range(5001)])
    assert "at most 5000 steps" in refused(f"    {steps}")["spec.steps"]


def test_two_thousand_steps_are_read_and_checked() -> None:
    chain = [
        {"id": "s0", "set": 1},
        *({"id": f"s{n}", "set": f"${{steps.s{n - 1}.output + 1}}"} for n in range(1, 2000)),
    ]
    found = definition(f"    {json.dumps(chain)}", limits=LIMITS.replace("steps: 40", "steps: 3000"))
    assert len(found.steps) == 2000
