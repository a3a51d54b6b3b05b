"""The deadline of the current call. Calls made within it get no more time than what is left."""

import time
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("slipway_deadline", default=None)


def bind_deadline(seconds: float) -> None:
    """Set the deadline of the rest of the current task, ``seconds`` from now."""
    _deadline.set(time.monotonic() + seconds)


def remaining() -> float | None:
    """Seconds left to the current call, never negative; None outside a call."""
    deadline = _deadline.get()
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def clear_deadline() -> None:
    """Free the rest of the current task from the deadline: work that outlives the call that began it."""
    _deadline.set(None)
