"""Broadcast over AMQP: one exclusive, auto-deleted queue per process, bound to each channel with a subscriber."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress

from aio_pika import ExchangeType
from aio_pika import Message as AmqpMessage
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue

from slipway_chassis.bus.amqp_link import AMQP_ERRORS, AmqpLink, cancellation_told_apart, tolerated, watch
from slipway_chassis.bus.backoff import Reconnect
from slipway_chassis.bus.fanout import MAILBOX_SIZE, Fanout
from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger

_CONFIRM_SECONDS = 5.0

_log = get_logger(__name__)


class AmqpBroadcast:
    """Publishing and subscribing through the direct exchange `exchange`; the channel is the routing key."""

    def __init__(self, publishing: AmqpLink, consuming: AmqpLink, exchange: str) -> None:
        self._publishing = publishing
        self._consuming = consuming
        self._name = exchange
        self._fanout = Fanout(self._attach, self._detach)
        self._outgoing: tuple[AbstractChannel, AbstractExchange] | None = None
        self._opening = asyncio.Lock()
        self._receiver: asyncio.Task[None] | None = None
        self._bound = asyncio.Event()
        self._queue: AbstractQueue | None = None  # set as long as `_bound` is

    async def publish(self, channel: str, data: bytes) -> None:
        """See Bus.broadcast. Not confirmed by the broker: what is lost was ephemeral."""
        try:
            with cancellation_told_apart():
                async with asyncio.timeout(_CONFIRM_SECONDS):
                    exchange = await self._exchange()
                    await exchange.publish(AmqpMessage(data), routing_key=channel, mandatory=False)
        except AMQP_ERRORS as error:
            raise Unavailable(f"bus: broadcast on {channel} failed") from error

    async def _exchange(self) -> AbstractExchange:
        async with self._opening:
            if self._outgoing is None or self._outgoing[0].is_closed:
                opened = await self._publishing.channel(confirms=False)
                self._outgoing = opened, await self._declare(opened)
            return self._outgoing[1]

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See Bus.subscribe."""
        return self._fanout.subscribe(channel)

    async def close(self) -> None:
        """Ends all subscriptions."""
        self._fanout.close()
        if self._receiver is not None:
            self._receiver.cancel()
            with suppress(asyncio.CancelledError):
                await self._receiver

    async def _attach(self, channel: str) -> None:
        if self._receiver is None:
            self._receiver = asyncio.create_task(self._receive(), name="bus-broadcast")
        try:
            async with asyncio.timeout(_CONFIRM_SECONDS):
                while (queue := self._queue) is None:
                    await self._bound.wait()
                with cancellation_told_apart():
                    await queue.bind(self._name, channel)
        except AMQP_ERRORS as error:
            raise Unavailable(f"bus: subscription to {channel} was not confirmed") from error

    async def _detach(self, channel: str) -> None:
        # A queue that is gone has no bindings either.
        with tolerated():
            if self._queue is not None:
                await self._queue.unbind(self._name, channel, timeout=_CONFIRM_SECONDS)

    async def _receive(self) -> None:
        """Keeps the queue and its bindings there, over restarts of the broker."""
        reconnect = Reconnect()
        while True:
            try:
                channel = await self._consuming.channel(confirms=False)
                lost = await watch(channel)
                with cancellation_told_apart():
                    async with asyncio.timeout(_CONFIRM_SECONDS):
                        await self._declare(channel)
                        queue = await channel.declare_queue(
                            exclusive=True, auto_delete=True, arguments={"x-max-length": MAILBOX_SIZE}
                        )
                        await queue.consume(self._deliver, no_ack=True)
                        for name in self._fanout.channels:
                            await queue.bind(self._name, name)
                self._queue = queue
                self._bound.set()
                reconnect.succeeded()
                await lost.wait()
            except AMQP_ERRORS as error:
                if reconnect.to_report():
                    _log.warning("bus.broadcast_unreachable", error=str(error))
            self._queue = None
            self._bound.clear()
            await reconnect.wait()

    async def _deliver(self, incoming: AbstractIncomingMessage) -> None:
        self._fanout.deliver(incoming.routing_key or "", incoming.body)

    async def _declare(self, channel: AbstractChannel) -> AbstractExchange:
        return await channel.declare_exchange(self._name, ExchangeType.DIRECT, durable=True)
