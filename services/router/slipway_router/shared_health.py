"""Health shared by all replicas through Redis, with a view in the process.

Degraded mode, declared: while Redis does not answer, each replica goes by its own view (what it saw last, and its own
failures since). Calls are served; cooldowns and probes are then per replica. A metric and a log line say so.
"""

import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.logs import get_logger

from slipway_router import metrics
from slipway_router.health import (
    COOLDOWN_FIRST,
    COOLDOWN_MOST,
    FAILURES_TO_COOL,
    PROBE_SECONDS,
    RETRY_AFTER_MOST,
    Admission,
    Gate,
    LocalHealth,
    ModelState,
)

_log = get_logger(__name__)
_VIEW_SECONDS = 1.0
"""Age from which the view is read again before it is used."""
_DOWN_SECONDS = 5.0
"""Time for which Redis is left alone after it failed."""
_FAILURES = (RedisError, OSError, TimeoutError)

# One hash holds all models, "<failures> <cooling until, ms of Redis' clock>": one read gives the whole view.
# KEYS: hash, probe. ARGV: model, Retry-After ms (0: none), threshold, first ms, most ms, Retry-After most ms.
_FAILED = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local state = redis.call('HGET', KEYS[1], ARGV[1]) or '0 0'
local failures, till = string.match(state, '(%d+) (%d+)')
failures = failures + 1
local pause = 0
if tonumber(ARGV[2]) > 0 then
  pause = math.min(tonumber(ARGV[2]), tonumber(ARGV[6]))
elseif failures >= tonumber(ARGV[3]) then
  pause = math.min(tonumber(ARGV[4]) * 2 ^ math.min(failures - tonumber(ARGV[3]), 16), tonumber(ARGV[5]))
end
till = tonumber(till)
if pause > 0 then till = math.max(till, now + pause) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %d', failures, till))
redis.call('DEL', KEYS[2])
"""


class SharedHealth:
    """Whether models may be tried, as all replicas know it together."""

    def __init__(
        self, redis: Redis, *, prefix: str = "slipway:router", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`redis` should have short time-outs: a call waits for it at most once."""
        self._redis = redis
        self._key = f"{prefix}:health"
        self._clock = clock
        self._view = LocalHealth(clock)
        self._read_at = float("-inf")
        self._down_until = float("-inf")
        self._failed_script: Any = redis.register_script(_FAILED)

    @property
    def degraded(self) -> bool:
        """True while Redis is left alone because it failed."""
        return self._clock() < self._down_until

    async def admit(self, model: str) -> Admission:
        """May `model` be tried now? PROBE is given to one caller among all replicas; report its outcome."""
        await self._refresh()
        admission = self._view.peek(model)
        if admission.gate is not Gate.PROBE:
            return admission
        if not self.degraded:
            try:
                milliseconds = int(PROBE_SECONDS * 1000)
                if not await self._redis.set(self._probe(model), "1", nx=True, px=milliseconds):
                    return Admission(Gate.CLOSED, 1.0)
            except _FAILURES as error:
                self._lost(error)
        return self._view.admit(model)

    async def peek(self, model: str) -> Admission:
        """As `admit`, without taking the probe."""
        await self._refresh()
        return self._view.peek(model)

    async def failed(self, model: str, retry_after: float | None) -> None:
        """Report a failure that counts; `retry_after` is the provider's own wish in seconds."""
        seconds = self._view.failed(model, retry_after)
        if seconds > 0:
            metrics.cooldowns.labels(model).inc()
            _log.warning("model.cooling_down", model=model, seconds=round(seconds, 1))
        if self.degraded:
            return
        wish = int((retry_after or 0) * 1000)
        limits = [FAILURES_TO_COOL, *(int(s * 1000) for s in (COOLDOWN_FIRST, COOLDOWN_MOST, RETRY_AFTER_MOST))]
        try:
            await self._failed_script(keys=[self._key, self._probe(model)], args=[model, wish, *limits])
        except _FAILURES as error:
            self._lost(error)

    async def succeeded(self, model: str) -> None:
        """Report a success; costs nothing for a model that was healthy."""
        if not self._view.succeeded(model) or self.degraded:
            return
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hdel(self._key, model)
                pipe.delete(self._probe(model))
                await pipe.execute()
        except _FAILURES as error:
            self._lost(error)

    async def released(self, model: str) -> None:
        """Report that a probe ended without a verdict."""
        self._view.released(model)
        if self.degraded:
            return
        try:
            await self._redis.delete(self._probe(model))
        except _FAILURES as error:
            self._lost(error)

    async def _refresh(self) -> None:
        now = self._clock()
        if now - self._read_at < _VIEW_SECONDS or self.degraded:
            return
        self._read_at = now
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.hgetall(self._key)
                (seconds, micros), entries = await pipe.execute()
        except _FAILURES as error:
            self._lost(error)
            return
        metrics.health_degraded.set(0)
        server = seconds + micros / 1_000_000
        states: dict[str, ModelState] = {}
        for name, entry in entries.items():
            failures, until = (int(part) for part in entry.split())
            states[_text(name)] = ModelState(failures, now + until / 1000 - server if until else 0.0)
        self._view.replace(states)

    def _probe(self, model: str) -> str:
        return f"{self._key}:probe:{model}"

    def _lost(self, error: Exception) -> None:
        self._down_until = self._clock() + _DOWN_SECONDS
        metrics.health_degraded.set(1)
        _log.warning("health.degraded", error=type(error).__name__, retry_in=_DOWN_SECONDS)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
