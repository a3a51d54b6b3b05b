"""Whether a Redis takes writes: what readiness asks."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.redis_check import check_takes_writes
from slipway_testkit.servers.redis import RedisServer, valkey


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One of our own: others would miss it."""
    with valkey() as running:
        yield running


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as client:
        yield client


async def test_a_redis_whose_memory_is_full_takes_no_writes(server: RedisServer, redis: Redis) -> None:
    await check_takes_writes(redis, "slipway:ready")
    server.refuse_writes()
    with pytest.raises(RedisError, match=r"OOM|maxmemory"):
        await check_takes_writes(redis, "slipway:ready")
    server.take_writes()
    await check_takes_writes(redis, "slipway:ready")


async def test_a_redis_that_was_made_a_replica_takes_no_writes(redis: Redis) -> None:
    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(RedisError, match="read only replica"):
        await check_takes_writes(redis, "slipway:ready")
    await redis.execute_command("REPLICAOF", "NO", "ONE")
    await check_takes_writes(redis, "slipway:ready")
