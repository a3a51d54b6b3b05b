"""Rate limits in a real Valkey: shared, exact, and asked for in groups."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from slipway_gateway.principal import Principal
from slipway_gateway.rate_limits import RatePolicy
from slipway_gateway.rate_store import IN_HAND_SECONDS, RedisRateLimiter


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def caller(subject: str) -> Principal:
    return Principal(subject, "acme", frozenset(), frozenset(), subject, "oidc", "t", datetime.now(UTC))


@pytest.fixture
async def redis(cache_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(cache_url) as client:
        yield client


async def commands(redis: Redis) -> int:
    """Script calls that the server has served."""
    stats: Any = await redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


# Next to nothing is refilled within a test.
SLOW = 1


async def test_a_burst_of_many_is_let_through_exactly_whoever_asks_where(redis: Redis) -> None:
    replicas = [RedisRateLimiter(redis, RatePolicy(SLOW, 1000)) for _ in range(3)]
    who = caller("exact")
    states = await asyncio.gather(*(replicas[number % 3].take(who) for number in range(1500)))
    allowed = [state for state in states if state is not None and state.allowed]
    refused = [state for state in states if state is not None and not state.allowed]
    assert (len(allowed), len(refused)) == (1000, 500)
    assert all(0 < state.retry_after <= 60 and state.remaining == 0 for state in refused)


async def test_no_more_is_let_through_than_the_bucket_held_also_when_some_is_taken_in_advance(redis: Redis) -> None:
    clock = Clock()
    replicas = [RedisRateLimiter(redis, RatePolicy(SLOW, 1000), clock=clock) for _ in range(3)]
    who = caller("advance")
    allowed = 0
    for number in range(1200):
        state = await replicas[number % 3].take(who)
        assert state is not None
        allowed += state.allowed
    # Each replica may still have a hundredth of the burst in hand.
    assert 970 <= allowed <= 1000
    clock.now += IN_HAND_SECONDS
    # What nobody used was given back.
    for number in range(200):
        state = await replicas[number % 3].take(who)
        assert state is not None
        allowed += state.allowed
        clock.now += IN_HAND_SECONDS
    assert allowed == 1000


async def test_a_busy_caller_seldom_waits_for_the_store(redis: Redis) -> None:
    limiter, who = RedisRateLimiter(redis, RatePolicy(SLOW, 100_000)), caller("busy")
    before = await commands(redis)
    seen = [await limiter.take(who) for _ in range(1000)]
    assert await commands(redis) - before < 100
    levels = [state.remaining for state in seen if state is not None]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 100_000 - 1000


async def test_a_small_burst_is_counted_request_by_request(redis: Redis) -> None:
    limiter, who = RedisRateLimiter(redis, RatePolicy(SLOW, 3)), caller("small")
    before = await commands(redis)
    states = [await limiter.take(who) for _ in range(4)]
    assert [state and state.allowed for state in states] == [True, True, True, False]
    assert await commands(redis) - before == 4


async def test_callers_of_one_moment_are_asked_for_in_one_round_trip_and_have_buckets_of_their_own(
    redis: Redis,
) -> None:
    limiter = RedisRateLimiter(redis, RatePolicy(SLOW, 2))
    people = [caller(f"together-{number}") for number in range(5)]
    states = await asyncio.gather(*(limiter.take(person) for person in people for _ in range(3)))
    assert [state and state.allowed for state in states] == [True, True, False] * 5
