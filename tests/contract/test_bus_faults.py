"""The bus while its broker is stopped, killed and wiped: real servers, both adapters."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest
from redis.asyncio import Redis
from slipway_chassis.bus import Bus, Message
from slipway_chassis.errors import Unavailable
from slipway_testkit.consuming import Inbox
from slipway_testkit.servers.rabbitmq import RabbitServer

TOPIC, GROUP = "audit.events", "audit"
QUEUES = (f".{TOPIC}.{GROUP}", f".{TOPIC}#unclaimed")

# RabbitMQ takes its time to start, more so on a busy machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def broker(bus_server) -> AsyncIterator[object]:
    """The session's broker; a test that stops it, or fills it up, need not bring it back."""
    yield bus_server
    await asyncio.to_thread(bus_server.start_if_stopped)


@pytest.fixture
async def full_broker(broker) -> AsyncIterator[object]:
    """A broker that may be told to refuse what is published: its memory is used up."""
    yield broker
    await asyncio.to_thread(broker.take_writes)


@pytest.fixture(params=["stopped", "killed"])
def crash(request: pytest.FixtureRequest) -> bool:
    return request.param == "killed"


async def written_down(broker, eventually, namespace: str, *queues: str) -> None:
    """Waits until the queues outlive SIGKILL: RabbitMQ writes its list of quorum queues with a delay of a second.

    What this excludes is said in slipway_chassis/bus/amqp.py; Valkey has nothing to wait for.
    """
    if isinstance(broker, RabbitServer):
        await eventually(lambda: all(broker.would_recover(f"{namespace}{queue}") for queue in queues))


async def publish(bus: Bus, numbers: range) -> list[str]:
    ids = [f"m{number}" for number in numbers]
    await asyncio.gather(*(bus.publish(Message(name, TOPIC, name.encode(), tenant="acme")) for name in ids))
    return ids


async def test_confirmed_messages_outlive_the_broker(new_bus, broker, namespace, consumers, crash, eventually):
    bus = await new_bus()
    confirmed = await publish(bus, range(200))
    await written_down(broker, eventually, namespace, f".{TOPIC}#unclaimed")
    await asyncio.to_thread(broker.stop, crash=crash)
    await asyncio.to_thread(broker.start)
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await eventually(lambda: len(set(inbox.ids)) == 200, timeout=60)
    assert set(inbox.ids) == set(confirmed)


async def test_running_consumer_and_subscriber_come_back_after_the_broker(
    new_bus, broker, namespace, consumers, crash, eventually
):
    bus, listener = await new_bus(), await new_bus()
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    async with listener.subscribe("run.a") as heard:
        await publish(bus, range(1))
        await eventually(lambda: inbox.seen)
        await written_down(broker, eventually, namespace, *QUEUES)
        await asyncio.to_thread(broker.stop, crash=crash)
        with pytest.raises(Unavailable):
            await bus.publish(Message("lost", TOPIC, b""))
        with pytest.raises(Unavailable):
            await bus.broadcast("run.a", b"lost")
        with pytest.raises(Unavailable):
            await bus.ping()
        await asyncio.to_thread(broker.start)

        async def published() -> bool:
            try:
                await bus.publish(Message("after", TOPIC, b""))
            except Unavailable:
                return False
            return True

        await eventually(published, timeout=30)
        await eventually(lambda: "after" in inbox.ids, timeout=30)
        assert "lost" not in inbox.ids

        reading = asyncio.create_task(anext(heard))

        async def heard_again() -> bool:
            await bus.broadcast("run.a", b"again")
            return reading.done()

        await eventually(heard_again, timeout=30)
        assert reading.result() == b"again"


async def test_message_in_hand_when_the_broker_dies_is_handled_in_the_end(
    new_bus, broker, namespace, consumers, eventually
):
    bus = await new_bus()
    in_hand, finish, handled = asyncio.Event(), asyncio.Event(), []

    async def handle(message: Message, deliveries: int) -> None:
        in_hand.set()
        await finish.wait()
        handled.append(message.id)

    consumers.start(bus.consume(TOPIC, GROUP, handle))
    await publish(bus, range(1))
    await asyncio.wait_for(in_hand.wait(), 10)
    await written_down(broker, eventually, namespace, *QUEUES)
    await asyncio.to_thread(broker.stop, crash=True)
    finish.set()
    await eventually(lambda: handled)
    await asyncio.to_thread(broker.start)
    await eventually(lambda: bus_is_back(bus), timeout=30)
    confirmed = await publish(bus, range(1, 20))
    # m0's acknowledgement was lost with the broker: it may come twice, the others come all.
    await eventually(lambda: set(confirmed) <= set(handled), timeout=30)
    assert set(handled) == {"m0", *confirmed}


async def bus_is_back(bus: Bus) -> bool:
    try:
        await bus.ping()
    except Unavailable:
        return False
    return True


async def wipe(url: str, namespace: str) -> None:
    """Deletes everything that the bus has at the broker."""
    if url.startswith("redis"):
        async with Redis.from_url(url) as client:
            await client.flushall()
        return
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        for queue in (f"{TOPIC}.{GROUP}", f"{TOPIC}.{GROUP}.dead", f"{TOPIC}#unclaimed"):
            await channel.queue_delete(f"{namespace}.{queue}")
        for exchange in (TOPIC, f"{TOPIC}#unclaimed"):
            await channel.exchange_delete(f"{namespace}.{exchange}")


async def test_bus_goes_on_after_everything_was_deleted_under_it(new_bus, bus_url, namespace, consumers, eventually):
    bus = await new_bus()
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await publish(bus, range(1))
    await eventually(lambda: inbox.seen)
    await wipe(bus_url, namespace)
    await publish(bus, range(1, 10))
    await eventually(lambda: len(set(inbox.ids)) == 10, timeout=20)


async def test_parked_retry_outlives_the_broker(new_bus, broker, namespace, consumers, eventually):
    bus = await new_bus()
    inbox = Inbox(fail=lambda message, deliveries: ValueError() if deliveries < 3 else None)
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await publish(bus, range(1))
    await eventually(lambda: len(inbox.seen) == 2)
    await written_down(broker, eventually, namespace, *QUEUES, "#retry.1000")
    await asyncio.to_thread(broker.stop, crash=True)
    await asyncio.to_thread(broker.start)
    await eventually(lambda: [deliveries for _, deliveries in inbox.seen][-1] >= 3, timeout=40)


async def test_a_full_broker_refuses_in_time_keeps_consumers_going_and_takes_messages_again(
    new_bus, full_broker, consumers, eventually
):
    bus = await new_bus()
    may_finish, inbox = asyncio.Event(), Inbox()

    async def handle(message: Message, deliveries: int) -> None:
        await may_finish.wait()
        await inbox(message, deliveries)

    consumers.start(bus.consume(TOPIC, GROUP, handle, concurrency=2))
    before = await publish(bus, range(20))
    await asyncio.to_thread(full_broker.refuse_writes)
    async with asyncio.timeout(40):
        with pytest.raises(Unavailable):
            await bus.publish(Message("refused", TOPIC, b"x" * 1024))
        outcomes = await bus.publish_all([Message(f"refused-{number}", TOPIC, b"x") for number in range(3)])
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    # What was confirmed is handled and acknowledged meanwhile: otherwise no broker would ever get rid of it.
    may_finish.set()
    await eventually(lambda: set(before) <= set(inbox.ids), timeout=30)
    await asyncio.to_thread(full_broker.take_writes)

    async def published() -> bool:
        try:
            await bus.publish(Message("after", TOPIC, b""))
        except Unavailable:
            return False
        return True

    await eventually(published, timeout=30)
    await eventually(lambda: "after" in inbox.ids, timeout=30)
    # Acknowledged, too: nothing came twice.
    assert sorted(name for name in inbox.ids if name in before) == sorted(before)
