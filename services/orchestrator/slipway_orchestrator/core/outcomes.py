"""How a step's failure counts: what its `on_error` makes of it."""

from collections.abc import Mapping
from typing import Any

from slipway_orchestrator.core.actions import Instance
from slipway_orchestrator.core.events import StepFailed

MAX_MESSAGE = 2000
"""Characters of an error's message in a journal."""


def failed(
    at: Instance,
    attempt: int,
    code: str,
    message: str,
    *,
    escalate: bool = False,
    fatal: bool = False,
    more: Mapping[str, Any] | None = None,
) -> StepFailed:
    """The event of a step that failed after so many attempts; 0: before its effect.

    `escalate`: a person is asked, if the step says so. `fatal`: nothing that the step declares goes on from it.
    `more`: what else the event holds.
    """
    step = at.step
    escalated = escalate and not fatal and step.on_error == "escalate"
    handled = not fatal and (step.on_error == "continue" or step.handler is not None)
    return StepFailed(
        at.key,
        step.type,
        attempt,
        code,
        message[:MAX_MESSAGE],
        handled=handled,
        handler=step.handler if handled else None,
        escalated=escalated,
        fatal=fatal,
        **(more or {}),
    )
