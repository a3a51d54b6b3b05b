"""What one attempt at a step's effect is, and how it ends."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from decimal import Decimal

from pydantic import JsonValue
from slipway.effects.v1 import effects_pb2
from slipway_chassis.errors import ErrorKind, SlipwayError

from slipway_orchestrator.core.actions import Perform
from slipway_orchestrator.core.events import Record, Usage
from slipway_orchestrator.core.retry import Failure
from slipway_orchestrator.runs import RunIdentity

_RETRYABLE = (
    ErrorKind.UNAVAILABLE,
    ErrorKind.DEADLINE_EXCEEDED,
    ErrorKind.RESOURCE_EXHAUSTED,
    ErrorKind.ABORTED,
)
_GRANT_GONE = frozenset({"GRANT_INVALID", "GRANT_EXPIRED", "GRANT_REVOKED", "SUBJECT_DISABLED"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt whose intent is journalled."""

    run: RunIdentity
    perform: Perform
    epoch: int
    token: str
    """Of the run's subject."""
    regions: tuple[str, ...] | None
    tokens_left: int
    cost_left: str
    """USD."""
    timeout: float
    """Seconds that it may take."""
    root_run_id: str
    """The run at the top of its tree."""
    tree_cost: str
    """USD that all runs of the tree may cost together."""
    stream: Callable[[int, str], Awaitable[None]]
    """Sends a piece of an answer (offset, text) to those who watch."""
    tainted: bool = False
    """The input derives from what came from outside."""

    @property
    def effect(self) -> effects_pb2.EffectKey:
        """The key under which executors keep the effect: stable over all attempts."""
        return effects_pb2.EffectKey(
            key=f"{self.run.run_id}/{self.perform.at.key}/{self.perform.occurrence}",
            epoch=self.epoch,
            attempt=self.perform.attempt,
            root_run_id=self.root_run_id,
        )

    @property
    def input(self) -> dict[str, JsonValue]:
        """The rendered input."""
        value = self.perform.input
        if not isinstance(value, dict):
            raise TypeError("the input of an effect is a mapping")
        return value


class AttemptFailed(Exception):
    """The attempt has no result."""

    def __init__(
        self,
        failure: Failure,
        *,
        records: tuple[Record, ...] = (),
        stdout: str | None = None,
        stderr: str | None = None,
        usage: Usage | None = None,
        cost_usd: Decimal | None = None,
    ) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.records = records
        self.stdout = stdout
        self.stderr = stderr
        self.usage = usage
        self.cost_usd = cost_usd


def failure_of(error: SlipwayError) -> Failure:
    """How an executor's error counts for the run."""
    return Failure(
        code=error.reason,
        status=error.kind.value,
        message=_sentence(error),
        retryable=error.kind in _RETRYABLE and error.reason != "BUDGET_EXHAUSTED",
        retry_after=error.retry_after,
        fatal=error.reason in _GRANT_GONE,
        uncertain=error.reason == "EFFECT_UNCERTAIN",
    )


def within_limits(error: SlipwayError, on_limit: str) -> Failure:
    """How the router's refusal of a call counts that may cost more than the run, or its tree, has left."""
    failure = failure_of(error)
    if error.reason == "BUDGET_EXHAUSTED" and error.metadata.get("budget"):
        return failure  # somebody else's budget
    if error.reason not in ("MAX_COST_EXCEEDED", "BUDGET_EXHAUSTED"):
        return failure
    return replace(failure, code="LIMIT_COST", fatal=on_limit == "fail", limit=on_limit == "pause")


def _sentence(error: SlipwayError) -> str:
    """The error's message and the places it speaks of: a run's event is all that its owner sees of it."""
    places = [f"{item.field}: {item.message}" for item in error.violations if item.message not in error.message]
    return f"{error.message} ({'; '.join(places)})" if places else error.message


def record_of(record: effects_pb2.RecordRef) -> tuple[Record, ...]:
    """The reference to an executor's audit record, if it gave one."""
    return (Record(record.event_id, record.commitment),) if record.event_id else ()
