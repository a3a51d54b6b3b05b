"""Journals that earlier releases wrote are read for ever: recorded once, never changed.

Each file holds a run as version 1 of the journal had it: the definition as it was stored, every event, and what came
of it. Between them they hold every kind of event of that version.
"""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from slipway_orchestrator.core.actions import Action, Append, Begin, Park, Perform
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalRequested,
    Event,
    RunSucceeded,
    StepSkipped,
    StepStarted,
    decode,
    version_of,
)
from slipway_orchestrator.core.state import RunState, fold
from slipway_orchestrator.core.workflow.decider import Workflow
from slipway_orchestrator.registry import stored_definition

JOURNALS = sorted((Path(__file__).parent / "journals").glob("*.json"))
KINDS = {
    "run.started",
    "run.recovered",
    "run.waiting",
    "run.succeeded",
    "run.failed",
    "run.cancelled",
    "step.started",
    "step.skipped",
    "step.completed",
    "step.failed",
    "step.retrying",
    "step.uncertain",
    "approval.requested",
    "approval.decided",
}


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def events(journal: dict[str, Any]) -> list[tuple[datetime, Event]]:
    found: list[tuple[datetime, Event]] = []
    for row in journal["events"]:
        event = decode(row["kind"], row["step_id"], row["data"])
        assert event is not None
        found.append((datetime.fromisoformat(row["time"]).astimezone(UTC), event))
    return found


def test_every_kind_of_event_is_among_them() -> None:
    assert {row["kind"] for file in JOURNALS for row in read(file)["events"]} == KINDS


@pytest.mark.parametrize("file", JOURNALS, ids=lambda file: file.stem)
def test_an_old_journal_folds_to_what_the_run_came_to(file: Path) -> None:
    journal = read(file)
    state: RunState = fold(events(journal))
    ended = {"SUCCEEDED": "run.succeeded", "FAILED": "run.failed", "CANCELLED": "run.cancelled"}
    assert (state.ended.kind if state.ended else None) == ended.get(journal["state"])
    if journal["state"] == "SUCCEEDED":
        assert isinstance(state.ended, RunSucceeded)
        assert state.ended.output == journal["output"]
    usage = journal["usage"]
    assert state.totals.steps == usage["steps"]
    assert (state.totals.input_tokens, state.totals.output_tokens) == (usage["input_tokens"], usage["output_tokens"])
    assert state.totals.cost_usd == Decimal("0.001") * (usage["output_tokens"] // 5)


@pytest.mark.parametrize("file", JOURNALS, ids=lambda file: file.stem)
def test_an_old_definition_is_read(file: Path) -> None:
    definition = stored_definition(json.dumps(read(file)["definition"]))
    assert definition.steps


UNFINISHED: dict[str, tuple[type[Action], str]] = {
    "parked-at-a-gate": (Park, "pay"),
    "died-after-intent": (Perform, "amount"),
    "parked-in-doubt": (Park, "a"),
}


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_run_that_an_old_worker_left_goes_on_where_it_was(name: str) -> None:
    journal = read(Path(__file__).parent / "journals" / f"{name}.json")
    definition, rows = stored_definition(json.dumps(journal["definition"])), events(journal)
    (action,) = Workflow(definition).decide(fold(rows), rows[-1][0])
    kind, key = UNFINISHED[name]
    assert isinstance(action, kind)
    if isinstance(action, Park):
        assert action.waiting.state == "WAITING_APPROVAL"
        asked = next(event for _, event in reversed(rows) if isinstance(event, ApprovalRequested))
        assert (asked.step_id, action.waiting.until) == (key, asked.expire_time)
        decided = ApprovalDecided(key, asked.approval_id, "approve", asked.arguments_digest, "bob")
        (then,) = Workflow(definition).decide(fold([*rows, (rows[-1][0], decided)]), rows[-1][0])
        assert isinstance(then, Append)
        (intent,) = then.events
        assert isinstance(intent, StepStarted)
        assert intent.input == {"tool": asked.tool, "arguments": asked.arguments}
        # The same effect: an approval of what is in doubt does it again under the same key.
        assert intent.occurrence == 1
    else:
        assert isinstance(action, Perform)
        assert (action.at.key, action.attempt, action.occurrence) == (key, 1, 1)


@pytest.mark.parametrize("file", JOURNALS, ids=lambda file: file.stem)
def test_each_step_of_an_old_run_would_be_decided_the_same_today(file: Path) -> None:
    """What release 1 began, and in which order, is what is begun now."""
    journal = read(file)
    workflow, rows = Workflow(stored_definition(json.dumps(journal["definition"]))), events(journal)
    state = RunState()
    for position, (time, event) in enumerate(rows):
        if isinstance(event, StepSkipped) or (isinstance(event, StepStarted) and event.step_id not in state.steps):
            (action,) = workflow.decide(state, rows[position - 1][0])
            assert isinstance(action, Begin)
            assert action.at.key == event.step_id
        fold([(time, event)], state)


def test_what_release_1_wrote_stays_readable_for_release_1() -> None:
    assert {version_of(event) for file in JOURNALS for _, event in events(read(file))} == {1}
