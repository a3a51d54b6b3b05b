"""Named points at which tests kill a worker."""

import os
import signal

_COMMITS = ("commit", "intent", "result", "fan-out", "join", "child-start", "child-end", "end")
"""What a commit writes: anything, an intent or a question, an outcome, a step that holds others begun or ended, a
child run begun or heard of, the run's end."""
POINTS = frozenset(
    {
        "after-claim",
        "before-effect",
        "after-effect",
        "before-park",
        "after-park",
        *(f"before-{name}" for name in _COMMITS),
        *(f"after-{name}" for name in _COMMITS),
    }
)


class CrashPoints:
    """Kills the process with SIGKILL when the n-th passing of the chosen point comes. For tests only."""

    def __init__(self, spec: str = "") -> None:
        """`spec` is `point` or `point:n` (n from 1); empty: never. ValueError for an unknown point."""
        point, _, count = spec.partition(":")
        if point and point not in POINTS:
            raise ValueError(f"unknown crash point {point}; known: {', '.join(sorted(POINTS))}")
        self._point = point
        self._left = int(count or 1)

    @property
    def armed(self) -> bool:
        """A point was chosen."""
        return bool(self._point)

    def passing(self, point: str) -> None:
        """The worker passes a point."""
        if point != self._point:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
