"""One suite over both adapters of the bus, each against its real server."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from slipway_chassis.bus import Bus, Message, open_bus


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def bus(bus_url: str, namespace: str) -> AsyncIterator[Bus]:
    opened = await open_bus(bus_url, namespace=namespace)
    yield opened
    await opened.close()


async def test_message_published_before_any_consumer_reaches_the_first_one(bus: Bus, eventually) -> None:
    await bus.publish(Message("m1", "run.wakeup", b"x", tenant="acme", headers={"traceparent": "00-1"}))
    seen = []

    async def handler(message: Message, deliveries: int) -> None:
        seen.append((message, deliveries))

    consumer = asyncio.create_task(bus.consume("run.wakeup", "workers", handler))
    await eventually(lambda: seen)
    assert seen == [(Message("m1", "run.wakeup", b"x", tenant="acme", headers={"traceparent": "00-1"}), 1)]
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
