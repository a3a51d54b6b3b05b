"""The buckets in Redis or Valkey, shared by all replicas of the gateway."""

import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, cast

import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.telemetry import registry

from slipway_gateway.principal import Principal
from slipway_gateway.rate_limits import RatePolicy, RateState

# After a failure Redis is left alone for this time: a request must not wait for a server that does not answer.
PAUSE_SECONDS: Final = 1.0

# A bucket is the number of requests that it held at a time; the time is the server's, so that replicas agree.
_TAKE: Final = """
local burst, per_second = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local bucket = redis.call('HMGET', KEYS[1], 'held', 'at')
local gone = math.max(0, now - (tonumber(bucket[2]) or now))
local held = math.min(burst, (tonumber(bucket[1]) or burst) + gone * per_second)
local allowed = held >= 1 and 1 or 0
held = held - allowed
redis.call('HSET', KEYS[1], 'held', tostring(held), 'at', tostring(now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / per_second * 1000) + 1000)
local full, next_one = (burst - held) / per_second, math.max(0, (1 - held) / per_second)
return {allowed, math.floor(held), tostring(full), tostring(next_one)}
"""

_degraded = Counter(
    "slipway_gateway_rate_limit_degraded",
    "Requests let through without a rate limit because Redis was away",
    registry=registry,
)
log = structlog.get_logger(__name__)


class RedisRateLimiter:
    """Token buckets in Redis.

    Degraded mode: while Redis is away (RedisError, OSError) requests are let through without a limit, because a rate
    limit protects the service and must not become the reason that it is down. Each is counted in
    `slipway_gateway_rate_limit_degraded_total`, and the first of a pause is logged.
    """

    def __init__(self, redis: "Redis", policy: RatePolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self._script = redis.register_script(_TAKE)
        self._clock = clock
        self._paused_until = float("-inf")

    async def take(self, principal: Principal) -> RateState | None:
        """As in RateLimiter; None in the degraded mode."""
        if self._clock() < self._paused_until:
            _degraded.inc()
            return None
        # Tenants have no "/" in their names, so that no two principals share a bucket; the digest bounds the key.
        name = sha256(f"{principal.tenant}/{principal.subject}".encode()).hexdigest()[:32]
        try:
            answer = await self._script(
                keys=[f"slipway:gateway:rate:{name}"], args=[self.policy.burst, self.policy.per_minute / 60]
            )
        except (RedisError, OSError) as error:
            self._paused_until = self._clock() + PAUSE_SECONDS
            _degraded.inc()
            log.warning("rate_limit.degraded", reason=type(error).__name__)
            return None
        allowed, remaining, reset, retry_after = cast(list[Any], answer)
        return RateState(bool(allowed), int(remaining), float(reset), 0.0 if allowed else float(retry_after))
