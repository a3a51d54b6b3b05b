"""Stopping calls that a run has under way, whichever replica makes them."""

import asyncio
import json
import random

from slipway_chassis.bus import Bus
from slipway_chassis.caller import Caller
from slipway_chassis.effects import EffectKey, EffectKeyLike, EffectLedger
from slipway_chassis.errors import PermissionDenied, Unavailable
from slipway_chassis.logs import get_logger

CHANNEL = "tools.cancel"
"""Broadcast channel: tenant, key and epoch of a call that is to stop."""

_log = get_logger(__name__)


class NotTheRun(PermissionDenied):
    """Only the run that makes a call may stop it."""

    reason = "NOT_THE_RUN"


class Cancellation:
    """Stops calls here, and tells the other replicas."""

    def __init__(self, ledger: EffectLedger, bus: Bus) -> None:
        self._ledger = ledger
        self._bus = bus

    async def cancel(self, caller: Caller, effect: EffectKeyLike) -> bool:
        """Stop the call of that key. True: it was under way here. Raises NotTheRun, or Unavailable."""
        if not caller.run_id or not effect.key.startswith(f"{caller.run_id}/"):
            raise NotTheRun("a call is stopped by the run that makes it, with a token of its own")
        if self._ledger.cancel(caller.tenant, effect):
            return True
        said = {"tenant": caller.tenant, "key": effect.key, "epoch": effect.epoch}
        await self._bus.broadcast(CHANNEL, json.dumps(said).encode())
        return False

    async def listen(self) -> None:
        """Stop what other replicas are asked to stop, until cancelled."""
        while True:
            try:
                async with self._bus.subscribe(CHANNEL) as messages:
                    async for data in messages:
                        said = json.loads(data)
                        self._ledger.cancel(str(said["tenant"]), EffectKey(str(said["key"]), int(said["epoch"])))
            except Unavailable:
                _log.warning("tools.deaf")
            await asyncio.sleep(random.uniform(1, 3))  # noqa: S311 - jitter
