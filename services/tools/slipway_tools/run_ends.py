"""Hearing that runs ended: what a run holds here ends with it."""

import asyncio
import json
import random
from collections.abc import Callable

from slipway_chassis.bus import Bus
from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger

CHANNEL = "run.ended"
"""Broadcast channel of the orchestrator: tenant and id of a run that ended."""

_log = get_logger(__name__)


class RunEnds:
    """Tells `ended` the tenant and id of each run that ends. What was not heard is found by its expiry."""

    def __init__(self, bus: Bus, ended: Callable[[str, str], None]) -> None:
        self._bus = bus
        self._ended = ended

    async def listen(self) -> None:
        """Hear of ends, until cancelled."""
        while True:
            try:
                async with self._bus.subscribe(CHANNEL) as messages:
                    async for data in messages:
                        said = json.loads(data)
                        self._ended(str(said["tenant"]), str(said["run"]))
            except Unavailable:
                _log.warning("tools.deaf")
            await asyncio.sleep(random.uniform(1, 3))  # noqa: S311 - jitter
