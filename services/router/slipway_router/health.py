"""Health of models: a model that fails again and again cools down, then one probe decides.

    healthy --failures--> cooling down --time--> half open --probe succeeded--> healthy
                                ^                    |
                                +---- probe failed --+

Here is the state machine over one process's own clock. `shared_health` keeps the same states for all replicas.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass

FAILURES_TO_COOL = 3
"""Consecutive failures after which a model cools down."""
COOLDOWN_FIRST = 5.0
COOLDOWN_MOST = 300.0
"""Seconds of the first cooldown and of the longest; each further failure doubles."""
RETRY_AFTER_MOST = 3600.0
"""A provider's Retry-After is honoured at once, up to this many seconds."""
PROBE_SECONDS = 60.0
"""A probe that has not reported by then is given up, and another may try."""


class Gate(enum.Enum):
    """Whether a model may be tried now."""

    OPEN = "healthy"
    PROBE = "half_open"
    CLOSED = "cooling_down"


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer for one model; `retry_after` in seconds when it is closed."""

    gate: Gate
    retry_after: float = 0.0


def cooldown(failures: int, retry_after: float | None) -> float:
    """Seconds of cooldown after the `failures`-th failure in a row; 0 means none yet."""
    if retry_after is not None and retry_after > 0:
        return min(retry_after, RETRY_AFTER_MOST)
    if failures < FAILURES_TO_COOL:
        return 0.0
    return min(COOLDOWN_FIRST * 2.0 ** min(failures - FAILURES_TO_COOL, 16), COOLDOWN_MOST)


@dataclass(slots=True)
class ModelState:
    """What is known of one model. Times on the owner's clock."""

    failures: int = 0
    until: float = 0.0
    probe_until: float = 0.0


class LocalHealth:
    """The state machine for the models of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds that never go back."""
        self._clock = clock
        self._states: dict[str, ModelState] = {}

    def admit(self, model: str) -> Admission:
        """May `model` be tried? A half-open model admits one caller: the probe."""
        admission = self.peek(model)
        if admission.gate is Gate.PROBE:
            self._states[model].probe_until = self._clock() + PROBE_SECONDS
        return admission

    def peek(self, model: str) -> Admission:
        """As `admit`, without taking the probe."""
        state = self._states.get(model)
        if state is None or state.until == 0.0:
            return Admission(Gate.OPEN)
        now = self._clock()
        wait = max(state.until, state.probe_until) - now
        return Admission(Gate.CLOSED, wait) if wait > 0 else Admission(Gate.PROBE)

    def failed(self, model: str, retry_after: float | None) -> float:
        """Count a failure; answers with the seconds of cooldown that it leads to. A longer cooldown stays."""
        state = self._states.setdefault(model, ModelState())
        state.failures += 1
        state.probe_until = 0.0
        seconds = cooldown(state.failures, retry_after)
        if seconds > 0:
            state.until = max(state.until, self._clock() + seconds)
        return seconds

    def succeeded(self, model: str) -> bool:
        """A success ends everything; True if there was something to end."""
        return self._states.pop(model, None) is not None

    def released(self, model: str) -> None:
        """A probe ended without a verdict (its caller went away): another may try."""
        state = self._states.get(model)
        if state is not None:
            state.probe_until = 0.0

    def replace(self, states: dict[str, ModelState]) -> None:
        """Take over what all replicas know together; a probe that this process runs stays its own."""
        for model, state in states.items():
            mine = self._states.get(model)
            if mine is not None:
                state.probe_until = max(state.probe_until, mine.probe_until)
        self._states = states
