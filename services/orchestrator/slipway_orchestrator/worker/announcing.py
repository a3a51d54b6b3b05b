"""Telling watchers: ephemeral, in order, and never in the way of a commit."""

import asyncio
import json
from contextlib import suppress

from slipway_chassis.bus import Bus
from slipway_chassis.errors import Unavailable

_WAITING = 10_000
INBOX = "run.inbox"
"""Channel on which workers hear that a run's inbox has something, or that a run waits for a free worker."""

ENDED = "run.ended"
"""Channel on which others hear that a run ended: `{"tenant": …, "run": …}`."""


def run_channel(run_id: str) -> str:
    """Channel of one run: `{"seq": n}` for each commit, `{"delta": …}` for pieces of answers."""
    return f"run.{run_id}"


class Announcer:
    """Broadcasts in the background. What cannot be sent is dropped: watchers look into the journal as well."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_WAITING)

    def say(self, channel: str, message: dict[str, object]) -> None:
        """Send a message, unless too many are waiting already."""
        with suppress(asyncio.QueueFull):
            self._queue.put_nowait((channel, json.dumps(message).encode()))

    async def run(self) -> None:
        """Send what was said, until cancelled."""
        while True:
            channel, data = await self._queue.get()
            with suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(2):
                    await self._bus.broadcast(channel, data)
