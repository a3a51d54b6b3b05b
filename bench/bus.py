"""Both adapters of the bus against their bare client library, turn by turn; one JSON line an adapter.

Messages/s from the first publish to the last acknowledgement: confirmed in batches of 100, consumed meanwhile, 64 in
hand by a handler that does nothing. The peer does the same with aio-pika (a quorum queue, publisher confirms) and with
redis-py (a stream and a consumer group, everything pipelined): the same messages with id, topic, tenant and headers, on
the same servers with the same durability, but no retries, dead letters, leases or traces.

Run: `python bench/bus.py [--messages N] [--rounds N]`
"""

import argparse
import asyncio
import json
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from redis.asyncio import Redis
from slipway_chassis.bus import Message, open_bus
from slipway_testkit.servers.process import ServerUnavailable
from slipway_testkit.servers.rabbitmq import debian_rabbitmq
from slipway_testkit.servers.redis import valkey

BATCH, IN_HAND = 100, 64
BODY = b"x" * 256
HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
TARGET = 0.5
Side = Callable[[str, int], Awaitable[float]]


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncGenerator[None]:
    """Runs `work` beside what is inside."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def adapter(url: str, messages: int) -> float:
    """Seconds of the bus."""
    bus = await open_bus(url, namespace=f"b{secrets.token_hex(4)}")
    handled, warm, done = 0, asyncio.Event(), asyncio.Event()

    async def handle(message: Message, deliveries: int) -> None:
        nonlocal handled
        warm.set()
        handled += 1
        if handled == messages + 1:
            done.set()

    async with running(bus.consume("bench", "group", handle, concurrency=IN_HAND)):
        await bus.publish(Message("warm", "bench", BODY))
        await warm.wait()
        began = time.perf_counter()
        for start in range(0, messages, BATCH):
            numbers = range(start, min(start + BATCH, messages))
            batch = [Message(f"m{number}", "bench", BODY, "acme", HEADERS) for number in numbers]
            assert not any(await bus.publish_all(batch))
        await done.wait()
        seconds = time.perf_counter() - began
    await bus.close()
    return seconds


def amqp_message(number: int) -> aio_pika.Message:
    """A message of the peer."""
    return aio_pika.Message(
        BODY,
        message_id=f"m{number}",
        type="bench",
        headers={"tenant": "acme", **HEADERS},
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


async def bare_amqp(url: str, messages: int) -> float:
    """Seconds of aio-pika."""
    async with await aio_pika.connect(url) as publishing, await aio_pika.connect(url) as consuming:
        channel, taking = await publishing.channel(), await consuming.channel()
        await taking.set_qos(prefetch_count=IN_HAND)
        queue = await taking.declare_queue(
            f"b{secrets.token_hex(4)}", durable=True, arguments={"x-queue-type": "quorum"}
        )
        handled, done = 0, asyncio.Event()

        async def handle(incoming: AbstractIncomingMessage) -> None:
            nonlocal handled
            await incoming.ack()
            handled += 1
            if handled == messages:
                done.set()

        tag = await queue.consume(handle)
        began = time.perf_counter()
        for start in range(0, messages, BATCH):
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(amqp_message(number), queue.name)
                    for number in range(start, min(start + BATCH, messages))
                )
            )
        await done.wait()
        seconds = time.perf_counter() - began
        await queue.cancel(tag)
        await queue.delete(if_unused=False, if_empty=False)
    return seconds


async def bare_streams(url: str, messages: int) -> float:
    """Seconds of redis-py."""
    stream, done = f"b{secrets.token_hex(4)}", asyncio.Event()
    async with Redis.from_url(url, protocol=2) as publishing, Redis.from_url(url, protocol=2) as consuming:
        commands, taking = cast(Any, publishing), cast(Any, consuming)
        fields = {"topic": "bench", "tenant": "acme", "headers": json.dumps(HEADERS), "body": BODY}
        await commands.xgroup_create(stream, "group", id="0", mkstream=True)

        async def consume() -> None:
            handled = 0
            while handled < messages:
                answer = await taking.xreadgroup("group", "one", {stream: ">"}, count=IN_HAND, block=5000)
                for _, entries in answer:
                    await taking.xack(stream, "group", *(entry for entry, _ in entries))
                    handled += len(entries)
            done.set()

        async with running(consume()):
            began = time.perf_counter()
            for start in range(0, messages, BATCH):
                async with commands.pipeline(transaction=False) as pipeline:
                    for number in range(start, min(start + BATCH, messages)):
                        pipeline.xadd(stream, {"id": f"m{number}", **fields})
                    await pipeline.execute()
            await done.wait()
            seconds = time.perf_counter() - began
        await commands.delete(stream)
    return seconds


async def compare(name: str, url: str, peer: Side, messages: int, rounds: int) -> None:
    """Alternates both, so that whatever else the machine does meets both."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        theirs.append(messages / await peer(url, messages))
        ours.append(messages / await adapter(url, messages))
    ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
    figure = {
        "bench": "bus",
        "figure": f"{name}: confirmed publish + consume, adapter / bare client",
        "value": round(statistics.median(ratios), 2),
        "target": TARGET,
        "adapter_per_s": round(statistics.median(ours)),
        "bare_per_s": round(statistics.median(theirs)),
    }
    print(json.dumps(figure), flush=True)


def main() -> None:
    """Runs the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with valkey() as server:
        uvloop.run(compare("streams", server.url, bare_streams, arguments.messages, arguments.rounds))
    try:
        with debian_rabbitmq() as broker:
            uvloop.run(compare("RabbitMQ", broker.url, bare_amqp, arguments.messages, arguments.rounds))
    except ServerUnavailable as error:
        print(json.dumps({"bench": "bus", "figure": "RabbitMQ", "skipped": str(error)}))


if __name__ == "__main__":
    main()
