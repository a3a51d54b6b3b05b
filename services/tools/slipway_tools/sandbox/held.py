"""A sandbox, the place that it takes, and the door to its network."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slipway_tools.sandbox.box import Box
from slipway_tools.sandbox.cgroups import SlotGroup


@dataclass(frozen=True)
class Place:
    """Room for one sandbox, with its control group."""

    index: int
    group: SlotGroup | None


class Doorway(Protocol):
    """The way out of one sandbox: a folder that is mounted into it, with a socket in it."""

    folder: Path

    def close(self) -> None:
        """Close it for good."""
        ...


@dataclass(frozen=True)
class Network:
    """A call's network: how a door is made for a new sandbox, and what serves the call while its program runs."""

    open: Callable[[], Awaitable[Doorway]]
    serve: Callable[[Doorway], AbstractContextManager[None]]


@dataclass(frozen=True)
class Held:
    """A sandbox in its place; `door` None: it has no network."""

    box: Box
    place: Place
    door: Doorway | None = None
