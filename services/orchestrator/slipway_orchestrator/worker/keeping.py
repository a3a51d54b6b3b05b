"""Keeping a lease while its run gets on: a heartbeat alone would keep wedged work for ever."""

import asyncio
import time
from collections.abc import Callable

from slipway_chassis.errors import Unavailable

from slipway_orchestrator.store.committing import LeaseLost
from slipway_orchestrator.store.leases import Lease, Leases

PATIENCE = 60.0
"""Seconds without progress, and with nothing under way, after which a lease is not renewed any more."""


class Keeper:
    """Renews a lease as long as something has happened lately, or may still be under way."""

    def __init__(self, leases: Leases, lease: Lease, bound: Callable[[], float], asked: Callable[[], None]) -> None:
        """`bound`: until when, by the monotonic clock, what is under way may take. `asked`: the inbox has something."""
        self._leases = leases
        self._lease = lease
        self._bound = bound
        self._asked = asked
        self._last = time.monotonic()
        self.lost = False

    def progress(self) -> None:
        """Something happened."""
        self._last = time.monotonic()

    async def run(self) -> None:
        """Renew until cancelled, or until the lease is lost."""
        while not self.lost:
            await asyncio.sleep(self._leases.seconds / 3)
            if time.monotonic() > max(self._bound(), self._last + PATIENCE):
                continue
            try:
                if await self._leases.renew(self._lease):
                    self._asked()
            except Unavailable:
                continue  # the lease may outlast the database's absence; the fence decides
            except LeaseLost:
                self.lost = True
                self._asked()
