"""Measurements exchanged with other replicas through Redis, so that all rank models alike.

Degraded mode, declared: while Redis does not answer, each replica goes by what it measured itself.
"""

import asyncio
import json
import uuid

from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.logs import get_logger

from slipway_router.measurements import Exported, Measurements

_log = get_logger(__name__)
_EVERY_SECONDS = 2.0
_FORGOTTEN_AFTER = 300.0
"""A replica that has sent nothing for so long is gone; what it measured has decayed by then."""


class PerformanceExchange:
    """Sends what this process measured, takes what the others did."""

    def __init__(self, redis: Redis, measurements: Measurements, *, prefix: str = "slipway:router") -> None:
        self._redis = redis
        self._measurements = measurements
        self._key = f"{prefix}:performance"
        self._replica = uuid.uuid4().hex

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            try:
                await self.exchange()
            except (RedisError, OSError, TimeoutError) as error:
                _log.warning("performance.degraded", error=type(error).__name__)
            await asyncio.sleep(_EVERY_SECONDS)

    async def exchange(self) -> None:
        """Send and take once. Raises what the connection does."""
        seconds, micros = await self._redis.time()
        now = seconds + micros / 1_000_000
        own = json.dumps([now, self._measurements.export()])
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(self._key, self._replica, own)
            pipe.expire(self._key, int(_FORGOTTEN_AFTER))
            pipe.hgetall(self._key)
            *_, entries = await pipe.execute()
        others: list[tuple[float, Exported]] = []
        gone: list[bytes] = []
        for replica, entry in entries.items():
            sent, export = json.loads(entry)
            if now - sent > _FORGOTTEN_AFTER:
                gone.append(replica)
            elif replica.decode() != self._replica:
                others.append((max(now - sent, 0.0), export))
        if gone:
            await self._redis.hdel(self._key, *gone)
        self._measurements.replace_others(others)
