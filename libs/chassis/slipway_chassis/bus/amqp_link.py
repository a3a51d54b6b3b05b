"""One AMQP connection, opened when first needed and opened again after it was lost."""

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from pamqp.exceptions import PAMQPException

AMQP_ERRORS = (AMQPError, ChannelInvalidStateError, PAMQPException, OSError, TimeoutError)
"""What a broker that is away, goes away or refuses looks like. (ConnectionError is an OSError.)"""

# The library logs each failed attempt with a traceback, and bodies of messages, which no log may hold. It raises all
# of that as well; who uses the link reports it.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)

_CONNECT_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_HEARTBEAT_SECONDS = 10  # a frozen consumer's messages go to another after about three of them


@contextmanager
def cancellation_told_apart() -> Generator[None]:
    """Turns a CancelledError that nobody asked for into one of AMQP_ERRORS.

    The library ends what waits for a lost connection by CancelledError: passed on, it would end our tasks silently.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ChannelInvalidStateError("the connection was lost") from None


@contextmanager
def tolerated() -> Generator[None]:
    """For what need not succeed: a broker that is away has done it by itself."""
    with suppress(*AMQP_ERRORS), cancellation_told_apart():
        yield


class AmqpLink:
    """Reconnecting is left to whoever needs the connection: the library's own way knows nothing of back-off."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._connection: AbstractConnection | None = None
        self._lock = asyncio.Lock()

    async def channel(self, *, confirms: bool = True) -> AbstractChannel:
        """A new open channel; with `confirms` an unroutable mandatory message raises. Raises one of AMQP_ERRORS."""
        with cancellation_told_apart():
            connection = await self._connected()
            try:
                channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await channel.initialize()
            except RuntimeError as error:
                # The library's answer when the connection was lost at this very moment.
                raise ChannelInvalidStateError(str(error)) from error
            return channel

    async def close(self) -> None:
        """Closes the connection, and with it all its channels."""
        async with self._lock:
            await self._discard()

    async def _connected(self) -> AbstractConnection:
        async with self._lock:
            if self._connection is None or not self._connection.connected.is_set():
                await self._discard()
                connection = Connection(
                    make_url(self._url, heartbeat=_HEARTBEAT_SECONDS),
                    client_properties={"connection_name": self._name},
                )
                try:
                    await connection.connect(timeout=_CONNECT_SECONDS)
                except BaseException:
                    # An attempt that failed is closed as well: left alone, it would do so when it is collected, in a
                    # task that nobody owns.
                    with tolerated():
                        await connection.close()
                    raise
                self._connection = connection
            return self._connection

    async def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with tolerated():
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await connection.close()


async def watch(channel: AbstractChannel) -> asyncio.Event:
    """An event that is set when `channel` closes, or the broker cancels a consumer on it (its queue was deleted)."""
    lost = asyncio.Event()

    def tell(*_: object) -> None:
        lost.set()

    underlay = await channel.get_underlay_channel()
    underlay.closing.add_done_callback(tell)
    underlay.on_consumer_cancel_callbacks.add(tell)
    return lost
