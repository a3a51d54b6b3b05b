"""What is done to RabbitMQ."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

import aio_pika
from slipway_testkit.servers.rabbitmq import RabbitServer

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
    """Deletes every queue with what is in it, under its consumers, again and again."""

    async def delete(channel: aio_pika.abc.AbstractChannel, queue: str) -> None:
        await channel.queue_delete(queue)

    ends = time.monotonic() + _SECONDS
    while time.monotonic() < ends:
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


def declare_otherwise(outages: Outages) -> None:
    """Puts exchanges of another type in the place of the bus's, for a while."""
    names = [name for name in _rabbit(outages).exchanges(_vhost(outages)) if "#" not in name]

    async def replace(channel: aio_pika.abc.AbstractChannel, name: str) -> None:
        await channel.exchange_delete(name)
        # Who misses it may have been quicker.
        with suppress(aio_pika.exceptions.ChannelPreconditionFailed):
            await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)

    async def delete(channel: aio_pika.abc.AbstractChannel, name: str) -> None:
        await channel.exchange_delete(name)

    asyncio.run(_each(outages, names, replace))
    try:
        time.sleep(_SECONDS)
    finally:
        asyncio.run(_each(outages, names, delete))


def change_password(outages: Outages) -> None:
    """Changes the user's password, and changes it back."""
    rabbit = _rabbit(outages)
    rabbit.control("change_password", "guest", "another")
    try:
        close_connections(outages)
        time.sleep(_SECONDS)
    finally:
        rabbit.control("change_password", "guest", "guest")


def delete_vhost(outages: Outages) -> None:
    """Deletes the virtual host with all that is in it, and makes an empty one of that name."""
    rabbit, vhost = _rabbit(outages), _vhost(outages)
    rabbit.control("delete_vhost", vhost)
    time.sleep(1)
    rabbit.control("add_vhost", vhost)
    rabbit.control("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")


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
