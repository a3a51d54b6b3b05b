"""The bus over RabbitMQ: quorum queues with publisher confirms, exclusive queues for the broadcast.

Needs RabbitMQ 3.10 or later and permission to declare exchanges and queues in its virtual host. A handler must end
within the broker's delivery acknowledgement timeout (30 minutes by default).

After a crash of the broker a parked retry can take three minutes more: that is how long a retry queue waits before it
hands over again (RabbitMQ's ``dead_letter_worker_publisher_confirm_timeout``).

A limit of RabbitMQ itself, seen with 3.10.8: a quorum queue that was declared less than about a second before its only
node was killed (SIGKILL, power) does not come back, with what it had confirmed. Outboxes and sweepers publish again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress

from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import ChannelClosed, ChannelInvalidStateError, ConnectionClosed

from slipway_chassis.bus.amqp_broadcast import AmqpBroadcast
from slipway_chassis.bus.amqp_consumer import QueueConsumer
from slipway_chassis.bus.amqp_link import AMQP_ERRORS, AmqpLink, cancellation_told_apart, tolerated
from slipway_chassis.bus.amqp_topology import Names, declare_dead, declare_group, declare_topic, decode, encode
from slipway_chassis.bus.message import Message, MessageTooLarge, check_group, check_name, check_publishable
from slipway_chassis.bus.protocol import Handler
from slipway_chassis.errors import Unavailable

_CONFIRM_SECONDS = 10.0

_STALE = (ChannelClosed, ConnectionClosed, ChannelInvalidStateError)
"""The channel or connection was closed since it was last used: by a broker that restarted, or because the topology
declared on it was deleted. Another one may do. (A broker that can't be reached raises something else.)"""
_FRESH_STARTS = 2


class AmqpBus:
    """Adapter of the Bus protocol."""

    def __init__(self, url: str, namespace: str) -> None:
        self._namespace = namespace
        # Apart, because the broker stops reading from connections that publish when it runs short of memory:
        # acknowledgements must get through then.
        self._publishing = AmqpLink(url, f"{namespace} publisher")
        self._consuming = AmqpLink(url, f"{namespace} consumer")
        self._broadcast = AmqpBroadcast(self._publishing, self._consuming, f"{namespace}#broadcast")
        self._channel: AbstractChannel | None = None
        self._exchanges: dict[str, AbstractExchange] = {}
        self._opening = asyncio.Lock()

    async def publish(self, message: Message) -> None:
        """See Bus.publish."""
        check_publishable(message)
        try:
            for _ in range(_FRESH_STARTS):
                with suppress(*_STALE):
                    return await self._publish(message)
            await self._publish(message)
        except AMQP_ERRORS as error:
            raise Unavailable(f"bus: message {message.id} for {message.topic} was not confirmed") from error

    async def publish_all(self, messages: Sequence[Message]) -> list[Exception | None]:
        """See Bus.publish_all. They go out one after the other on one channel; the confirms are awaited together."""

        async def outcome(message: Message) -> Exception | None:
            try:
                await self.publish(message)
            except (Unavailable, MessageTooLarge, ValueError) as error:
                return error
            return None

        return list(await asyncio.gather(*(outcome(message) for message in messages)))

    async def _publish(self, message: Message) -> None:
        with cancellation_told_apart():
            async with asyncio.timeout(_CONFIRM_SECONDS):
                exchange = await self._exchange(message.topic)
                await exchange.publish(encode(message), routing_key="", mandatory=True)

    async def _exchange(self, topic: str) -> AbstractExchange:
        async with self._opening:
            channel = self._channel
            if channel is None or channel.is_closed:
                channel = self._channel = await self._publishing.channel()
                self._exchanges = {}
            if topic not in self._exchanges:
                self._exchanges[topic] = await declare_topic(channel, Names(self._namespace, topic))
            return self._exchanges[topic]

    async def consume(
        self, topic: str, group: str, handler: Handler, *, concurrency: int = 8, max_deliveries: int = 5
    ) -> None:
        """See Bus.consume."""
        consumer = QueueConsumer(
            self._consuming,
            self._names(topic, group),
            handler=handler,
            concurrency=concurrency,
            max_deliveries=max_deliveries,
        )
        await consumer.run()

    async def dead_letters(self, topic: str, group: str, limit: int) -> list[Message]:
        """See Bus.dead_letters. They are taken and given back: two readers at once may each see a part."""
        found: list[Message] = []
        try:
            channel = await self._consuming.channel()
            try:
                with cancellation_told_apart():
                    queue = await declare_dead(channel, self._names(topic, group))
                    while len(found) < limit and (incoming := await queue.get(fail=False)) is not None:
                        found.append(decode(incoming))
            finally:
                with tolerated():
                    await channel.close()
        except AMQP_ERRORS as error:
            raise Unavailable("bus: dead letters can't be read") from error
        return found

    async def replay_dead(self, topic: str, group: str) -> int:
        """See Bus.replay_dead. Each letter is acknowledged when its copy is confirmed, so that none is lost."""
        names = self._names(topic, group)
        replayed = 0
        try:
            channel = await self._consuming.channel()
            try:
                with cancellation_told_apart():
                    await declare_group(channel, names)
                    queue = await declare_dead(channel, names)
                    # Letters that come meanwhile stay: a message that fails at once would be replayed for ever.
                    present = queue.declaration_result.message_count or 0
                    while replayed < present and (incoming := await queue.get(fail=False)) is not None:
                        copy = encode(decode(incoming))
                        await channel.default_exchange.publish(
                            copy, names.queue, mandatory=True, timeout=_CONFIRM_SECONDS
                        )
                        await incoming.ack()
                        replayed += 1
            finally:
                with tolerated():
                    await channel.close()
        except AMQP_ERRORS as error:
            raise Unavailable(f"bus: replay stopped after {replayed} messages") from error
        return replayed

    async def broadcast(self, channel: str, data: bytes) -> None:
        """See Bus.broadcast."""
        await self._broadcast.publish(channel, data)

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See Bus.subscribe."""
        return self._broadcast.subscribe(channel)

    async def ping(self) -> None:
        """See Bus.ping."""
        try:
            channel = await self._publishing.channel(confirms=False)
            with cancellation_told_apart():
                await channel.close()
        except AMQP_ERRORS as error:
            raise Unavailable("bus: RabbitMQ does not answer") from error

    async def close(self) -> None:
        """See Bus.close."""
        await self._broadcast.close()
        await self._publishing.close()
        await self._consuming.close()

    def _names(self, topic: str, group: str) -> Names:
        check_name("topic", topic)
        check_group(group)
        return Names(self._namespace, topic, group)
