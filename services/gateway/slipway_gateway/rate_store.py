"""The buckets in Redis or Valkey, shared by all replicas of the gateway."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
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
_KNOWN_NAMES: Final = 4096

# A bucket is the number of requests that it held at a time; the time is the server's, so that replicas agree. ARGV:
# burst, requests a second, and for how many requests it is asked: they come in a group; the first ones are let through.
_TAKE: Final = """
local burst, per_second, asked = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local bucket = redis.call('HMGET', KEYS[1], 'held', 'at')
local gone = math.max(0, now - (tonumber(bucket[2]) or now))
local held = math.min(burst, (tonumber(bucket[1]) or burst) + gone * per_second)
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


class RedisRateLimiter:
    """Token buckets in Redis.

    Degraded mode: while Redis is away (RedisError, OSError) requests are let through without a limit, because a rate
    limit protects the service and must not become the reason that it is down. Each is counted in
    `slipway_gateway_rate_limit_degraded_total`, and the first of a pause is logged.

    Requests that come while Redis is being asked are asked for together, one script call a bucket, in one round trip.
    """

    def __init__(self, redis: "Redis", policy: RatePolicy, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self._redis = redis
        self._script = redis.register_script(_TAKE)
        self._clock = clock
        self._paused_until = float("-inf")
        self._waiting: dict[str, list[asyncio.Future[RateState | None]]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._names: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def take(self, principal: Principal) -> RateState | None:
        """As in RateLimiter; None in the degraded mode."""
        if self._clock() < self._paused_until:
            _degraded.inc()
            return None
        answer: asyncio.Future[RateState | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(self._name(principal), []).append(answer)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await answer

    def _name(self, principal: Principal) -> str:
        # Tenants have no "/" in their names, so that no two principals share a bucket; the digest bounds the key.
        who = (principal.tenant, principal.subject)
        name = self._names.get(who)
        if name is None:
            digest = sha256(f"{principal.tenant}/{principal.subject}".encode()).hexdigest()[:32]
            name = self._names[who] = f"slipway:gateway:rate:{digest}"
            if len(self._names) > _KNOWN_NAMES:
                self._names.popitem(last=False)
        return name

    async def _ask(self) -> None:
        """Asks for whatever waits, group after group; every future gets an answer."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting, {}
                try:
                    answers = await self._round_trip({name: len(askers) for name, askers in group.items()})
                except (RedisError, OSError) as error:
                    self._paused_until = self._clock() + PAUSE_SECONDS
                    _degraded.inc(sum(len(askers) for askers in group.values()))
                    log.warning("rate_limit.degraded", reason=type(error).__name__)
                    answers = [None] * len(group)
                except BaseException as error:
                    for askers in group.values():
                        _give_up(askers, error)
                    raise
                for askers, answer in zip(group.values(), answers, strict=True):
                    self._tell(askers, answer)
        finally:
            self._asking = None

    async def _round_trip(self, asked: Mapping[str, int]) -> list[Any]:
        policy = [self.policy.burst, self.policy.per_minute / 60]
        if len(asked) == 1:
            (name, count), *_ = asked.items()
            return [await self._script(keys=[name], args=[*policy, count])]
        async with self._redis.pipeline(transaction=False) as pipe:
            for name, count in asked.items():
                await self._script(keys=[name], args=[*policy, count], client=pipe)
            return await pipe.execute()

    def _tell(self, askers: Sequence["asyncio.Future[RateState | None]"], answer: Any) -> None:
        per_second = self.policy.per_minute / 60
        allowed, held = (int(answer[0]), float(answer[1])) if answer is not None else (0, 0.0)
        for place, asker in enumerate(askers):
            if asker.done():
                continue
            if answer is None:
                asker.set_result(None)
                continue
            left = held + max(allowed - place - 1, 0)
            let_through = place < allowed
            wait = 0.0 if let_through else max(0.0, (1 - held) / per_second)
            asker.set_result(RateState(let_through, math.floor(left), (self.policy.burst - left) / per_second, wait))


def _give_up(askers: Sequence["asyncio.Future[RateState | None]"], error: BaseException) -> None:
    for asker in askers:
        if not asker.done():
            asker.set_exception(error)
