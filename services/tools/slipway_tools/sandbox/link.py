"""What connects the service to one sandbox, wherever that runs: a process of this machine, or a pod of a cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slipway_tools.sandbox.cgroups import SlotGroup
from slipway_tools.sandbox.pipes import Report


@dataclass(frozen=True)
class Ears:
    """Who hears what comes out of a sandbox: what its program prints, and its runner's report."""

    stdout: Callable[[bytes], None]
    stderr: Callable[[bytes], None]
    report: Report


@dataclass(frozen=True)
class Berth:
    """What one sandbox is started with.

    `name` is unique in this process. `group` holds its processes, if they are this machine's. `egress` is the folder
    with the egress proxy's socket and certificate, None: no network at all.
    """

    name: str
    group: SlotGroup | None
    egress: Path | None


class Link(Protocol):
    """A connected sandbox. It is one when something was first sent; until then it only waits."""

    @property
    def alive(self) -> bool:
        """True while it can still take a program."""
        ...

    async def send(self, parts: list[bytes]) -> None:
        """Send to the runner's control channel; raises PipeEnded."""
        ...

    def drain(self, most: int) -> None:
        """Have heard, of what was printed by programs that are dead now, about `most` bytes."""
        ...

    def refusal(self) -> tuple[str, str]:
        """Why it did not come up: in words that show nothing of the machine, and what it complained of, for the log."""
        ...

    async def out_of_memory(self) -> bool:
        """True if it was lost for want of memory, as far as this link is who knows it."""
        ...

    def kill(self) -> None:
        """Kill everything in it, at once; `end` sees to it that this happened."""
        ...

    async def end(self) -> None:
        """Kill, wait until nothing is left of it, and let go."""
        ...
