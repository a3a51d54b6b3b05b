"""What the supervisor needs to know of a process."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessSpec:
    """One process of the stack.

    `ready` returns when the process answers and raises otherwise; it is called until it returns. `after` names the
    processes that must be ready before this one starts.
    """

    name: str
    argv: tuple[str | Path, ...]
    env: Mapping[str, str]
    ready: Callable[[], Awaitable[None]]
    after: tuple[str, ...] = ()
    # Runs once, when the process is ready for the first time: creating databases, for example.
    once_ready: Callable[[], Awaitable[None]] | None = None
    stop_signal: int = signal.SIGTERM
    death_signal: int = signal.SIGKILL
    drop_root: bool = False
    ready_within: float = 180
    detail: str = ""
