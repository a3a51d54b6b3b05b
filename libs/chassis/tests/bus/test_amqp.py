"""What only the adapter over RabbitMQ has: its queues, and what the broker does to them."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import aio_pika
import pytest
from slipway_chassis.bus import DEAD_REASON, Bus, Message, open_bus
from slipway_testkit.consuming import Consumers, Inbox

TOPIC, GROUP = "run.wakeup", "workers"
pytestmark = pytest.mark.servers


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def channel(rabbitmq_url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    async with await aio_pika.connect(rabbitmq_url) as connection:
        yield await connection.channel()


@pytest.fixture
async def bus(rabbitmq_url: str, namespace: str) -> AsyncIterator[Bus]:
    opened = await open_bus(rabbitmq_url, namespace=namespace)
    yield opened
    await opened.close()


@pytest.fixture
async def consumers(bus: Bus) -> AsyncIterator[Consumers]:
    started = Consumers()
    yield started
    await started.close()


async def waiting(channel, queue: str) -> int:
    declared = await channel.declare_queue(queue, passive=True)
    return declared.declaration_result.message_count


async def test_failed_message_waits_in_a_queue_of_the_broker_not_in_the_consumer(
    bus, channel, namespace, consumers, eventually
):
    inbox = Inbox(fail=lambda message, deliveries: ValueError())
    running = consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await bus.publish(Message("m1", TOPIC, b"{}"))
    await eventually(lambda: len(inbox.seen) == 2)
    await consumers.stop(running)
    await eventually(lambda: waiting(channel, f"{namespace}.{TOPIC}.{GROUP}"))


async def test_unclaimed_messages_are_drained_by_the_first_group(bus, channel, namespace, consumers, eventually):
    for number in range(5):
        await bus.publish(Message(f"m{number}", TOPIC, b"{}"))
    await eventually(lambda: waiting(channel, f"{namespace}.{TOPIC}#unclaimed"))
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await eventually(lambda: len(inbox.seen) == 5)
    assert await waiting(channel, f"{namespace}.{TOPIC}#unclaimed") == 0


async def test_message_that_no_publisher_of_the_bus_wrote_becomes_a_dead_letter(
    bus, channel, namespace, consumers, eventually
):
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await bus.publish(Message("m1", TOPIC, b"{}"))
    await eventually(lambda: inbox.seen)
    foreign = aio_pika.Message(b"what is this", message_id="x")
    await channel.default_exchange.publish(foreign, f"{namespace}.{TOPIC}.{GROUP}")
    (dead,) = await eventually(lambda: bus.dead_letters(TOPIC, GROUP, 10))
    assert (dead.id, dead.topic, dead.body) == ("x", TOPIC, b"what is this")
    assert dead.headers[DEAD_REASON].startswith("MALFORMED")
    assert inbox.ids == ["m1"]


async def exists(url: str, queue: str) -> bool:
    # A failed question closes its channel: each asks on a connection of its own.
    async with await aio_pika.connect(url) as connection:
        try:
            await (await connection.channel()).declare_queue(queue, passive=True)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False
        return True


async def test_consumer_notices_that_its_queue_was_deleted(
    bus, channel, rabbitmq_url, namespace, consumers, eventually
):
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await bus.publish(Message("m1", TOPIC, b"{}"))
    await eventually(lambda: inbox.seen)
    await channel.queue_delete(f"{namespace}.{TOPIC}.{GROUP}")
    await eventually(lambda: exists(rabbitmq_url, f"{namespace}.{TOPIC}.{GROUP}"))
    await bus.publish(Message("m2", TOPIC, b"{}"))
    await eventually(lambda: "m2" in inbox.ids)


async def test_first_publishers_at_once_share_one_channel(bus, namespace, channel):
    await asyncio.gather(*(bus.publish(Message(f"m{number}", f"topic.{number % 3}", b"{}")) for number in range(300)))
    assert sum([await waiting(channel, f"{namespace}.topic.{number}#unclaimed") for number in range(3)]) == 300
