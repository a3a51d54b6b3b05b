"""Buckets shared by all replicas through Redis: one script for all that a call takes.

Degraded mode, declared: while Redis does not answer, each replica limits by buckets of its own; together they let
through as many times more as there are replicas. A metric and a log line say so.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.caller import Caller
from slipway_chassis.logs import get_logger

from slipway_router import metrics
from slipway_router.catalogue import Model
from slipway_router.throttle import Draw, LocalBuckets, RateLimitReached, Turn, draws_of

_log = get_logger(__name__)
_DOWN_SECONDS = 5.0
"""Time for which Redis is left alone after it failed."""
_FAILURES = (RedisError, OSError, TimeoutError)

# KEYS: buckets. ARGV: longest wait in ms, then the cost of each bucket in ms. Answers with the wait in ms, or negative
# with the wait that would have been too long; nothing was taken then. Times are those of Redis.
_TAKE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local wait = 0
local filled = {}
for i, key in ipairs(KEYS) do
  filled[i] = math.max(tonumber(redis.call('GET', key) or '0'), now) + tonumber(ARGV[i + 1])
  wait = math.max(wait, filled[i] - now - 60000)
end
if wait > tonumber(ARGV[1]) then return tostring(-wait) end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.3f', filled[i]), 'PX', math.ceil(filled[i] - now) + 1)
end
return tostring(wait)
"""
# KEYS: buckets. ARGV: what each gets back, in ms.
_GIVE_BACK = """
for i, key in ipairs(KEYS) do
  local full = redis.call('GET', key)
  if full then
    redis.call('SET', key, string.format('%.3f', tonumber(full) - tonumber(ARGV[i])), 'KEEPTTL')
  end
end
"""


class SharedThrottle:
    """Whether and when models may be asked."""

    def __init__(
        self, redis: Redis, *, prefix: str = "slipway:router:limit", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`redis` should have short time-outs: a call waits for it at most once."""
        self._redis = redis
        self._prefix = prefix
        self._clock = clock
        self._local = LocalBuckets(clock)
        self._down_until = float("-inf")
        self._take: Any = redis.register_script(_TAKE)
        self._give_back: Any = redis.register_script(_GIVE_BACK)

    async def take(self, caller: Caller, model: Model, tokens: int) -> Turn | None:
        """A turn at `model` for a call of at most `tokens` tokens; None when it has no limits.

        Raises RateLimitReached when the turn would come later than the model's queue reaches.
        """
        if model.throttle is None:
            return None
        draws = draws_of(model, caller.tenant, caller.subject, tokens)
        if not draws:
            return None
        wait = await self._wait(draws, model.throttle.queue_seconds)
        if wait < 0:
            metrics.throttled.labels(model.name, "refused").inc()
            raise RateLimitReached(f"{model.name} may not be asked faster", retry_after=-wait / 1000)
        if wait > 0:
            metrics.throttled.labels(model.name, "queued").inc()
        return Turn(draws, wait / 1000)

    async def give_back(self, turn: Turn, *, tokens: int | None) -> None:
        """The call has ended and used `tokens`; None: it was not sent."""
        unused = [
            draw if tokens is None else replace(draw, amount=min(draw.amount, draw.per_minute) - tokens)
            for draw in turn.draws
            if tokens is None or (draw.is_tokens and draw.amount > tokens)
        ]
        unused = [draw for draw in unused if draw.amount > 0]
        if not unused:
            return
        if self._is_down:
            self._local.give_back(unused)
            return
        try:
            await self._give_back(keys=self._keys(unused), args=[f"{draw.cost_ms:.3f}" for draw in unused])
        except _FAILURES as error:
            self._lost(error)

    async def _wait(self, draws: tuple[Draw, ...], queue_seconds: float) -> float:
        if not self._is_down:
            costs = [f"{draw.cost_ms:.3f}" for draw in draws]
            try:
                answer = await self._take(keys=self._keys(draws), args=[queue_seconds * 1000, *costs])
                metrics.throttle_degraded.set(0)
                return float(answer)
            except _FAILURES as error:
                self._lost(error)
        return self._local.take(draws, queue_seconds)

    def _keys(self, draws: "tuple[Draw, ...] | list[Draw]") -> list[str]:
        return [f"{self._prefix}:{draw.key}" for draw in draws]

    @property
    def _is_down(self) -> bool:
        return self._clock() < self._down_until

    def _lost(self, error: Exception) -> None:
        self._down_until = self._clock() + _DOWN_SECONDS
        metrics.throttle_degraded.set(1)
        _log.warning("throttle.degraded", error=type(error).__name__, retry_in=_DOWN_SECONDS)
