"""Receipts: a consumer tells the outboxes that it has committed what came, so that they need not keep it.

They are broadcasts, and may be lost: a message without a receipt is published again, its consumer knows it by its id,
and sends another.
"""

import asyncio
import contextlib
import json
from collections.abc import Sequence

from slipway_chassis.bus import Bus
from slipway_chassis.errors import Unavailable

CHANNEL = "outbox.receipts"
"""Broadcast channel; a message is a JSON list of message ids."""

_WAITING = 10_000  # message ids that wait to be told
_BATCH = 500
_TIMEOUT = 5.0


class Receipts:
    """The consumer's side: tells in the background, and never holds up who consumes."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._queue: asyncio.Queue[str] = asyncio.Queue(_WAITING)

    def give(self, message_ids: Sequence[str]) -> None:
        """Tell that these messages are committed. When too many wait, the rest is dropped: they come again."""
        with contextlib.suppress(asyncio.QueueFull):
            for message_id in message_ids:
                self._queue.put_nowait(message_id)

    async def run(self) -> None:
        """Send receipts, many in one broadcast, until cancelled."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            with contextlib.suppress(Unavailable, TimeoutError, OSError):
                async with asyncio.timeout(_TIMEOUT):
                    await self._bus.broadcast(CHANNEL, json.dumps(batch).encode())
