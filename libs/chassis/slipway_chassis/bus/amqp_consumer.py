"""One consumer of a group's queue: hands out, settles, parks failures, comes back after the broker."""

import asyncio

from aio_pika import Message as AmqpMessage
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from slipway_chassis.bus.amqp_link import AMQP_ERRORS, AmqpLink, cancellation_told_apart, tolerated, watch
from slipway_chassis.bus.amqp_topology import Names, declare_group, decode, delivery_number, encode
from slipway_chassis.bus.backoff import Reconnect
from slipway_chassis.bus.handlers import HandlerPool, attempt
from slipway_chassis.bus.message import CONSUMER_LOST, Message
from slipway_chassis.bus.metrics import handled
from slipway_chassis.bus.protocol import Handler
from slipway_chassis.logs import get_logger

_CONFIRM_SECONDS = 10.0
_CANCEL_SECONDS = 2.0  # a stopping process has little time

_log = get_logger(__name__)


class QueueConsumer:
    """Messages are settled on the channel that brought them; a lost channel gives them back by itself."""

    def __init__(
        self, link: AmqpLink, names: Names, *, handler: Handler, concurrency: int, max_deliveries: int
    ) -> None:
        self._link = link
        self._names = names
        self._handler = handler
        self._concurrency = concurrency
        self._max_deliveries = max_deliveries
        self._pool = HandlerPool(concurrency)
        self._channel: AbstractChannel | None = None
        self._consumed: list[tuple[AbstractQueue, str]] = []

    async def run(self) -> None:
        """Consumes until cancelled; then drains handlers and gives back what is left."""
        reconnect = Reconnect()
        try:
            while True:
                try:
                    lost = await self._begin()
                    reconnect.succeeded()
                    await lost.wait()
                except AMQP_ERRORS as error:
                    if reconnect.to_report():
                        _log.warning("bus.unreachable", queue=self._names.queue, error=str(error))
                await self._close_channel()
                await reconnect.wait()
        finally:
            await self._stop_taking()
            await self._pool.drain()
            await self._close_channel()

    async def _begin(self) -> asyncio.Event:
        """Declares and consumes; the event returned tells that the channel or a consumer is gone."""
        channel = self._channel = await self._link.channel()
        lost = await watch(channel)
        # A queue without a leader accepts its declaration and never answers the rest.
        with cancellation_told_apart():
            async with asyncio.timeout(_CONFIRM_SECONDS):
                # For each queue, as quorum queues know no common one: what is beyond the slots waits in the pool.
                await channel.set_qos(prefetch_count=self._concurrency)
                for queue in await declare_group(channel, self._names):
                    self._consumed.append((queue, await queue.consume(self._take)))
        return lost

    async def _take(self, incoming: AbstractIncomingMessage) -> None:
        # The library ends its callbacks with the channel; handlers live on in the pool, which drains them.
        self._pool.start(self._handle(incoming))

    async def _handle(self, incoming: AbstractIncomingMessage) -> None:
        try:
            await self._settle(incoming)
        except Exception as error:  # noqa: BLE001 - a message in hand must be given back, whatever went wrong
            # It comes again, with a higher count, which consumers must bear anyway.
            _log.warning("bus.not_settled", queue=self._names.queue, error=repr(error))
            with tolerated():
                await incoming.reject(requeue=True)

    async def _settle(self, incoming: AbstractIncomingMessage) -> None:
        deliveries = delivery_number(incoming)
        try:
            message = decode(incoming)
        except ValueError as error:
            foreign = Message(incoming.message_id or "", self._names.topic, incoming.body)
            await self._give_up(incoming, foreign, f"MALFORMED: {error}", deliveries)
            return
        if deliveries > self._max_deliveries:
            await self._give_up(incoming, message, CONSUMER_LOST, deliveries - 1)
        elif (reason := await attempt(self._handler, message, deliveries, self._names.group)) is None:
            await incoming.ack()
            self._count("acknowledged")
        elif deliveries == self._max_deliveries:
            await self._give_up(incoming, message, reason, deliveries)
        else:
            await self._pass_on(incoming, encode(message, deliveries=deliveries), self._names.retry(deliveries))
            self._count("retried")

    async def _give_up(self, incoming: AbstractIncomingMessage, message: Message, reason: str, deliveries: int) -> None:
        await self._pass_on(incoming, encode(message, deliveries=deliveries, dead_reason=reason), "")
        self._count("dead")
        _log.error("bus.dead_letter", queue=self._names.queue, reason=reason, deliveries=deliveries)

    async def _pass_on(self, incoming: AbstractIncomingMessage, copy: AmqpMessage, exchange: str) -> None:
        """Publishes `copy` to a retry exchange or ("") to the dead letters; acknowledges only when that is confirmed.

        On the channel of the message: were it another one, a lost channel would leave both, copy and original.
        """
        routing_key = self._names.queue if exchange else self._names.dead
        await incoming.channel.basic_publish(
            copy.body,
            exchange=exchange,
            routing_key=routing_key,
            properties=copy.properties,
            mandatory=True,
            timeout=_CONFIRM_SECONDS,
        )
        await incoming.ack()

    async def _stop_taking(self) -> None:
        consumed, self._consumed = self._consumed, []
        for queue, tag in consumed:
            with tolerated():
                await queue.cancel(tag, timeout=_CANCEL_SECONDS)

    async def _close_channel(self) -> None:
        channel, self._channel = self._channel, None
        self._consumed = []
        if channel is not None:
            with tolerated():
                async with asyncio.timeout(_CANCEL_SECONDS):
                    await channel.close()

    def _count(self, outcome: str) -> None:
        handled.labels(self._names.topic, self._names.group, outcome).inc()
