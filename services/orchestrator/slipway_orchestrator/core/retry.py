"""Whether a failed attempt is tried again, and how long to wait before it."""

from dataclasses import dataclass

from slipway_orchestrator.core.definition import Retry


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed."""

    code: str
    """What the run reports: the tool's code, or the reason of the executor's error."""
    status: str
    """gRPC code name of the executor's error; empty when the tool itself failed."""
    message: str
    retryable: bool
    """What the executor says when the definition names no codes."""
    retry_after: float | None = None
    """Earliest sensible retry, in seconds."""
    fatal: bool = False
    """Nothing the step declares may go on from it: the run's grant is gone."""
    uncertain: bool = False
    """The effect may have happened."""
    tool_error: bool = False
    limit: bool = False
    """What the run may spend stands in the way, and it pauses: it is tried again when that was raised."""
    performed: bool = False
    """The effect was performed, but its answer is of no use: another attempt is another effect."""


def tries_again(failure: Failure, retry: Retry, attempt: int) -> bool:
    """True when another attempt follows attempt number `attempt`."""
    if failure.limit:
        return True
    if failure.fatal or failure.uncertain or attempt >= retry.attempts:
        return False
    if retry.on is None:
        return failure.retryable
    return failure.code in retry.on or failure.status in retry.on


def backoff(retry: Retry, attempt: int, failure: Failure, draw: float) -> float:
    """Seconds to wait after attempt `attempt`: full jitter (`draw` uniform in [0, 1)), not before Retry-After.

    Source: Marc Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """
    if failure.limit:
        return 0.0
    ceiling = min(retry.max_backoff, retry.backoff * 2 ** (attempt - 1))
    return max(draw * ceiling, failure.retry_after or 0.0)
