"""Health over a real Valkey: replicas agree, one probes, and an outage degrades to each one's own view."""

import asyncio

import pytest
from redis.asyncio import Redis
from slipway_router.health import Gate
from slipway_router.shared_health import SharedHealth
from slipway_testkit.servers.process import free_port


class Clock:
    """Seconds that a test moves on; Valkey keeps its own time."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
async def redis(cache_url):
    client = Redis.from_url(cache_url, socket_timeout=2)
    yield client
    await client.aclose()


@pytest.fixture
def replicas(redis, request):
    prefix = f"test:{request.node.name}"
    clock = Clock()
    return SharedHealth(redis, prefix=prefix, clock=clock), SharedHealth(redis, prefix=prefix, clock=clock), clock


async def test_a_cooldown_is_seen_by_the_other_replica(replicas):
    one, other, clock = replicas
    assert (await other.admit("m")).gate is Gate.OPEN
    await one.failed("m", 20.0)
    clock.now += 1.0
    admission = await other.admit("m")
    assert admission.gate is Gate.CLOSED
    assert 15 < admission.retry_after <= 20


async def test_failures_of_all_replicas_count_together(replicas):
    one, other, clock = replicas
    await one.failed("m", None)
    await other.failed("m", None)
    await one.failed("m", None)
    clock.now += 1.0
    assert (await other.admit("m")).gate is Gate.CLOSED


async def test_one_caller_among_all_replicas_probes(replicas, eventually):
    one, other, clock = replicas
    await one.failed("m", 0.2)

    async def half_open():
        clock.now += 1.0
        return (await one.peek("m")).gate is Gate.PROBE and (await other.peek("m")).gate is Gate.PROBE

    await eventually(half_open)
    admissions = await asyncio.gather(*(replica.admit("m") for replica in (one, other) for _ in range(5)))
    assert [admission.gate for admission in admissions].count(Gate.PROBE) == 1
    await one.succeeded("m")
    await other.succeeded("m")
    clock.now += 1.0
    assert (await other.admit("m")).gate is Gate.OPEN


async def test_a_probe_that_was_left_is_free_again(replicas, eventually):
    one, other, clock = replicas
    await one.failed("m", 0.2)

    async def probing():
        clock.now += 1.0
        return (await one.admit("m")).gate is Gate.PROBE

    await eventually(probing)
    assert (await other.admit("m")).gate is Gate.CLOSED
    await one.released("m")
    clock.now += 1.0
    assert (await other.admit("m")).gate is Gate.PROBE


async def test_a_shorter_retry_after_does_not_shorten_a_cooldown(replicas):
    one, other, clock = replicas
    await one.failed("m", 50.0)
    await other.failed("m", 2.0)
    clock.now += 1.0
    assert (await one.peek("m")).retry_after > 40


async def test_without_redis_each_replica_goes_by_its_own_view():
    dead = Redis.from_url(f"redis://127.0.0.1:{free_port()}", socket_connect_timeout=0.2)
    health = SharedHealth(dead, clock=Clock())
    assert (await health.admit("m")).gate is Gate.OPEN
    assert health.degraded
    for _ in range(3):
        await health.failed("m", None)
    assert (await health.admit("m")).gate is Gate.CLOSED
    await health.succeeded("m")
    assert (await health.admit("m")).gate is Gate.OPEN
    await dead.aclose()
