"""The seam between what runs programs and what closes them off: one implementation per kind of sandbox."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slipway_tools.sandbox.cgroups import Overhead
from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.link import Berth, Ears, Link


@dataclass(frozen=True)
class Wiring:
    """How one sandbox is connected: descriptors that it inherits beside standard input (control), output and error.

    `report` takes the runner's reports, `journal` the sandbox's own complaints. `egress` is the folder with the egress
    proxy's socket and certificate, None: no network at all.
    `pin` ties the program to as many processors as it may use, where no control group shares out their time;
    `memory_bound`: one bounds memory, so that the runner may let a program have address space that it never fills.
    """

    name: str
    report: int
    journal: int
    egress: Path | None
    pin: bool
    memory_bound: bool


@dataclass(frozen=True)
class Starting:
    """How sandboxes of a kind are started: seconds that one may take, how many at a time, and the pauses (seconds)
    before one that did not come up is started once more.
    """

    seconds: float = 15.0
    at_a_time: int = 1
    again: tuple[float, ...] = (0.0, 0.05, 0.2, 0.5)


STARTED_HERE = Starting()  # of processes of this machine


class Adapter(Protocol):
    """A kind of sandbox, ready to be used."""

    @property
    def name(self) -> str:
        """`nsjail`, `runsc`, `kubernetes`."""
        ...

    @property
    def limits(self) -> Limits:
        """The limits that it enforces."""
        ...

    @property
    def overhead(self) -> Overhead | None:
        """What it needs itself in a control group of this machine; None: its sandboxes are bounded elsewhere."""
        ...

    @property
    def starting(self) -> Starting:
        """How they are started."""
        ...

    @property
    def protection(self) -> str:
        """What closes a program off, for people: recorded with every call."""
        ...

    @property
    def downgrades(self) -> tuple[str, ...]:
        """What of the limits this kind of sandbox can't enforce by itself on this machine."""
        ...

    def connect(self, berth: Berth, ears: Ears) -> Link:
        """Start what becomes a sandbox; raises SandboxUnavailable when it can't be started."""
        ...

    async def close(self) -> None:
        """Remove what all of them left."""
        ...


class ProcessAdapter(Protocol):
    """The part of an adapter whose sandboxes are processes of this machine."""

    @property
    def kill_signal(self) -> signal.Signals:
        """What has the sandbox's own process end at once, with all that is in it; SIGKILL follows if it does not."""
        ...

    def command(self, wiring: Wiring) -> list[str]:
        """The command that becomes the sandbox, with the runner as its first process."""
        ...

    def refusal(self, journal: bytes) -> str:
        """Why a sandbox did not come up, in words that show no path."""
        ...

    def forget(self, name: str) -> None:
        """Remove what the ended sandbox `name` left on this machine."""
        ...
