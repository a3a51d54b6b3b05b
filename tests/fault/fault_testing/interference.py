"""What an operator, or a script of theirs, does to servers that run: nothing is dead, and nothing is as it was."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aio_pika
import asyncpg
from redis.asyncio import Redis
from slipway_testkit.servers.postgres import PostgresServer
from slipway_testkit.servers.rabbitmq import RabbitServer
from slipway_testkit.servers.redis import RedisServer

from fault_testing.outages import Outages

# Long enough for consumers and outboxes to run into it.
_SECONDS = 5


def purge_queues(outages: Outages) -> None:
    """Throws away what waits in any queue, again and again."""

    async def purge(channel: aio_pika.abc.AbstractChannel, queue: str) -> None:
        await (await channel.get_queue(queue, ensure=False)).purge()

    ends = time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        asyncio.run(_each(outages, _rabbit(outages).queues(_vhost(outages)), purge))


def delete_queues(outages: Outages) -> None:
    """Deletes every queue with what is in it, under its consumers."""

    async def delete(channel: aio_pika.abc.AbstractChannel, queue: str) -> None:
        await channel.queue_delete(queue)

    asyncio.run(_each(outages, _rabbit(outages).queues(_vhost(outages)), delete))


def delete_exchanges(outages: Outages) -> None:
    """Deletes every exchange, so that what is published goes nowhere."""

    async def delete(channel: aio_pika.abc.AbstractChannel, exchange: str) -> None:
        await channel.exchange_delete(exchange)

    asyncio.run(_each(outages, _rabbit(outages).exchanges(_vhost(outages)), delete))


def close_connections(outages: Outages) -> None:
    """Closes every connection by the broker's own command."""
    _rabbit(outages).control("close_all_connections", "--vhost", _vhost(outages), "for a test")


def take_permissions(outages: Outages) -> None:
    """Takes the user's permissions for a while."""
    rabbit, vhost = _rabbit(outages), _vhost(outages)
    rabbit.control("clear_permissions", "-p", vhost, "guest")
    try:
        close_connections(outages)
        time.sleep(_SECONDS)
    finally:
        rabbit.control("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")


def block_publishers(outages: Outages) -> None:
    """Raises the broker's memory alarm, for longer than publishers wait."""
    try:
        _rabbit(outages).refuse_writes()
        time.sleep(12)
    finally:
        _rabbit(outages).take_writes()


def flush_redis(outages: Outages) -> None:
    """Empties Redis, again and again."""
    redis = cast(RedisServer, outages.servers["redis"])

    async def flush() -> None:
        async with Redis.from_url(redis.url) as client:
            for _ in range(2 * _SECONDS):
                await client.flushall()
                await asyncio.sleep(0.5)

    asyncio.run(flush())


def terminate_backends(outages: Outages) -> None:
    """Ends every connection to PostgreSQL, again and again."""
    for _ in range(_SECONDS):
        _sql(
            outages,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        time.sleep(0.5)


def refuse_writes(outages: Outages) -> None:
    """Has PostgreSQL refuse all writes for a while, as a full disk or a failover would."""
    _sql(outages, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        time.sleep(_SECONDS)
    finally:
        _sql(
            outages,
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )


def restart_as_standby(outages: Outages) -> None:
    """Restarts PostgreSQL in recovery, where it answers questions only, and then as it was."""
    postgres = cast(PostgresServer, outages.servers["postgres"])
    data = postgres.folder / "data"
    signal = data / "standby.signal"
    postgres.stop()
    signal.touch()
    os.chown(signal, data.stat().st_uid, data.stat().st_gid)
    postgres.start()
    time.sleep(_SECONDS)
    postgres.stop()
    signal.unlink()
    postgres.start()


def restart_weaviate(outages: Outages) -> None:
    """Kills Weaviate in the middle of what it is taking, twice."""
    for _ in range(2):
        with outages.of("weaviate"):
            time.sleep(1)


INTERFERENCES: tuple[Callable[[Outages], None], ...] = (
    purge_queues,
    delete_queues,
    delete_exchanges,
    close_connections,
    take_permissions,
    block_publishers,
    flush_redis,
    terminate_backends,
    refuse_writes,
    restart_as_standby,
    restart_weaviate,
)


def _rabbit(outages: Outages) -> RabbitServer:
    return cast(RabbitServer, outages.servers["bus"])


def _vhost(outages: Outages) -> str:
    return outages.bus_url.rpartition("/")[2]


async def _each(
    outages: Outages, names: list[str], do: Callable[[aio_pika.abc.AbstractChannel, str], Awaitable[None]]
) -> None:
    async with await aio_pika.connect(outages.bus_url) as connection:
        for name in names:
            channel = await connection.channel()
            await do(channel, name)
            await channel.close()


def _sql(outages: Outages, *statements: str) -> None:
    postgres = cast(PostgresServer, outages.servers["postgres"])

    async def run() -> None:
        connection: Any = await asyncpg.connect(postgres.url())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())
