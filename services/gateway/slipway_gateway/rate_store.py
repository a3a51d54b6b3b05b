"""The buckets in Redis or Valkey, shared by all replicas of the gateway."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.telemetry import registry

from slipway_gateway.principal import Principal
from slipway_gateway.rate_limits import RatePolicy, RateState

# After a failure Redis is left alone for this time: a request must not wait for a server that does not answer.
PAUSE_SECONDS: Final = 1.0
# What of a bucket a replica may have in hand, and for how long.
MOST_IN_HAND: Final = 64
IN_HAND_SECONDS: Final = 0.25
_KNOWN_BUCKETS: Final = 4096

_Askers = list["asyncio.Future[RateState | None]"]

# A bucket is the number of requests that it held at a time; the time is the server's, so that replicas agree. ARGV:
# burst, requests a second, how many requests are asked for (the first ones of a group are let through), how many that
# were asked for earlier come back.
_TAKE: Final = """
local burst, per_second, asked, back = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local bucket = redis.call('HMGET', KEYS[1], 'held', 'at')
local gone = math.max(0, now - (tonumber(bucket[2]) or now))
local held = math.min(burst, (tonumber(bucket[1]) or burst) + gone * per_second + back)
local allowed = math.min(asked, math.floor(held))
held = held - allowed
redis.call('HSET', KEYS[1], 'held', tostring(held), 'at', tostring(now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / per_second * 1000) + 1000)
return {allowed, tostring(held)}
"""

_degraded = Counter(
    "slipway_gateway_rate_limit_degraded",
    "Requests let through without a rate limit because Redis was away",
    registry=registry,
)
log = structlog.get_logger(__name__)


class _Bucket:
    """What this process knows of a bucket: who waits for it, and what of it is in hand."""

    __slots__ = ("askers", "busy_until", "held", "in_hand", "name", "until")

    def __init__(self, name: str) -> None:
        self.name = name
        self.askers: list[asyncio.Future[RateState | None]] = []
        self.in_hand = 0
        self.until = self.busy_until = float("-inf")
        self.held = 0.0


class RedisRateLimiter:
    """Token buckets in Redis.

    Degraded mode: while Redis is away (RedisError, OSError) requests are let through without a limit, because a rate
    limit protects the service and must not become the reason that it is down. Each is counted in
    `slipway_gateway_rate_limit_degraded_total`, and the first of a pause is logged.

    Requests that come while Redis is being asked are asked for together, one script call a bucket, in one round trip.
    For a caller who sends many, a hundredth of the burst (64 requests at most) is taken in advance, and given back when
    it was not used: never are more let through than the bucket held.
    """

    def __init__(self, redis: "Redis", policy: RatePolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self._redis = redis
        self._script = redis.register_script(_TAKE)
        self._clock = clock
        self._paused_until = float("-inf")
        self._per_second = policy.per_minute / 60
        self._advance = min(policy.burst // 100, MOST_IN_HAND)
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        self._due: dict[_Bucket, None] = {}
        self._asking: asyncio.Task[None] | None = None

    async def take(self, principal: Principal) -> RateState | None:
        """As in RateLimiter; None in the degraded mode."""
        now = self._clock()
        if now < self._paused_until:
            _degraded.inc()
            return None
        bucket = self._bucket(principal)
        if bucket.in_hand and now < bucket.until:
            bucket.in_hand -= 1
            if bucket.in_hand <= self._advance // 2:
                self._ask_soon(bucket)
            return self._state(bucket.held + bucket.in_hand)
        answer: asyncio.Future[RateState | None] = asyncio.get_running_loop().create_future()
        bucket.askers.append(answer)
        self._ask_soon(bucket)
        return await answer

    def _bucket(self, principal: Principal) -> _Bucket:
        # Tenants have no "/" in their names, so that no two principals share a bucket; the digest bounds the key.
        who = (principal.tenant, principal.subject)
        bucket = self._buckets.get(who)
        if bucket is None:
            digest = sha256(f"{principal.tenant}/{principal.subject}".encode()).hexdigest()[:32]
            bucket = self._buckets[who] = _Bucket(f"slipway:gateway:rate:{digest}")
            if len(self._buckets) > _KNOWN_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(who)
        return bucket

    def _ask_soon(self, bucket: _Bucket) -> None:
        self._due[bucket] = None
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Asks for whatever is due, group after group; every future gets an answer."""
        try:
            while self._due:
                group = [(bucket, bucket.askers) for bucket in self._due]
                self._due = {}
                for bucket, _ in group:
                    bucket.askers = []
                try:
                    answers = await self._round_trip(group)
                except (RedisError, OSError) as error:
                    self._paused_until = self._clock() + PAUSE_SECONDS
                    log.warning("rate_limit.degraded", reason=type(error).__name__)
                    for _, askers in group:
                        _degraded.inc(len(askers))
                        _tell(askers, [None] * len(askers))
                except BaseException as error:
                    for _, askers in group:
                        _give_up(askers, error)
                    raise
                else:
                    for (bucket, askers), (allowed, held) in zip(group, answers, strict=True):
                        self._answered(bucket, askers, int(allowed), float(held))
        finally:
            self._asking = None

    async def _round_trip(self, group: Sequence[tuple[_Bucket, _Askers]]) -> Sequence[Any]:
        arguments = [self._arguments(bucket, len(askers)) for bucket, askers in group]
        if len(group) == 1:
            return [await self._script(keys=[group[0][0].name], args=arguments[0])]
        async with self._redis.pipeline(transaction=False) as pipe:
            for (bucket, _), asked in zip(group, arguments, strict=True):
                await self._script(keys=[bucket.name], args=asked, client=pipe)
            return await pipe.execute()

    def _arguments(self, bucket: _Bucket, askers: int) -> list[float]:
        now = self._clock()
        back = 0
        if now >= bucket.until:
            back, bucket.in_hand = bucket.in_hand, 0
        # In advance only for who sent a request a moment ago, too.
        advance = max(self._advance - bucket.in_hand, 0) if now < bucket.busy_until else 0
        bucket.busy_until = now + IN_HAND_SECONDS
        return [self.policy.burst, self._per_second, askers + advance, back]

    def _answered(self, bucket: _Bucket, askers: _Askers, allowed: int, held: float) -> None:
        extra = max(allowed - len(askers), 0)
        bucket.in_hand += extra
        bucket.until = self._clock() + IN_HAND_SECONDS
        bucket.held = held
        level = held + bucket.in_hand
        granted = min(allowed, len(askers))
        states = [self._state(level + granted - place - 1) for place in range(granted)]
        refused = RateState(False, 0, (self.policy.burst - held) / self._per_second, (1 - held) / self._per_second)
        _tell(askers, [*states, *[refused] * (len(askers) - granted)])

    def _state(self, level: float) -> RateState:
        return RateState(True, math.floor(level), (self.policy.burst - level) / self._per_second, 0.0)


def _tell(askers: _Askers, states: Sequence[RateState | None]) -> None:
    for asker, state in zip(askers, states, strict=True):
        if not asker.done():
            asker.set_result(state)


def _give_up(askers: _Askers, error: BaseException) -> None:
    for asker in askers:
        if not asker.done():
            asker.set_exception(error)
