"""What a loop does next: a workflow's decisions over the steps that it has grown so far."""

import json
from collections.abc import Sequence

from pydantic import JsonValue

from slipway_orchestrator.core.actions import Action, Append
from slipway_orchestrator.core.definition import Definition, Step
from slipway_orchestrator.core.events import RunFailed, RunSucceeded
from slipway_orchestrator.core.loop.agent import Loop
from slipway_orchestrator.core.loop.unrolling import Unrolled
from slipway_orchestrator.core.state import RunState
from slipway_orchestrator.core.workflow.decider import Workflow
from slipway_orchestrator.definitions.json_schema import violations


class LoopDecider(Workflow):
    """Decides for the runs of one loop agent."""

    def __init__(self, definition: Definition, loop: Loop) -> None:
        super().__init__(definition)
        self._loop = loop
        self._schema = json.dumps(dict(definition.output_schema))

    def steps(self, state: RunState) -> Sequence[Step]:
        """The steps that the run has come to so far."""
        unrolled = self._unrolled(state)
        unrolled.grow(state)
        return unrolled.steps

    def find(self, state: RunState, step_id: str) -> Step | None:
        """The step of that id, among those that the run has come to."""
        for step in reversed(self.steps(state)):
            for candidate in (step, *(child for block in step.blocks for child in block)):
                if candidate.step_id == step_id:
                    return candidate
        return None

    def end(self, state: RunState) -> tuple[Action, ...]:
        """The model has had its last word."""
        unrolled = self._unrolled(state)
        if unrolled.fault is not None:
            message = f"the answer does not fit the output's schema: {unrolled.fault}"
            return (Append((RunFailed("OUTPUT_INVALID", message[:2000], unrolled.steps[-1].step_id),)),)
        return (Append((RunSucceeded(unrolled.output, state.tainted or None),)),)

    def _unrolled(self, state: RunState) -> Unrolled:
        known = state.cursors.get("loop")
        if isinstance(known, Unrolled):
            return known
        made = state.cursors["loop"] = Unrolled(self._definition, self._loop, self._violations)
        return made

    def _violations(self, value: JsonValue) -> list[tuple[str, str]]:
        return violations(self._schema, value)


def decider_of(definition: Definition) -> Workflow:
    """Who decides for the runs of a definition."""
    return Workflow(definition) if definition.loop is None else LoopDecider(definition, definition.loop)
