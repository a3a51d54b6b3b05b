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
from slipway_orchestrator.core.events import Event, RunSucceeded, decode
from slipway_orchestrator.core.state import RunState, fold
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
