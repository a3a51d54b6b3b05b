"""Broadcast over pub/sub: one connection per process carries all its subscriptions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from slipway_chassis.bus.backoff import Reconnect
from slipway_chassis.bus.fanout import Fanout
from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger

_CONFIRM_SECONDS = 5.0
# The reader wakes this often when nothing comes; between, it waits for the socket.
_READ_SECONDS = 30.0

_log = get_logger(__name__)


class ValkeyBroadcast:
    """Publishing and subscribing on channels with the prefix `prefix`."""

    def __init__(self, client: Redis, waiting: Redis, prefix: str) -> None:
        self._client = client
        self._waiting = waiting
        self._prefix = prefix
        self._fanout = Fanout(self._attach, self._detach)
        self._pubsub: PubSub | None = None
        self._reader: asyncio.Task[None] | None = None
        self._confirmed: dict[str, asyncio.Event] = {}

    async def publish(self, channel: str, data: bytes) -> None:
        """See Bus.broadcast."""
        try:
            await self._client.publish(self._prefix + channel, data)
        except RedisError as error:
            raise Unavailable(f"bus: broadcast on {channel} failed") from error

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See Bus.subscribe."""
        return self._fanout.subscribe(channel)

    async def close(self) -> None:
        """Ends all subscriptions and the connection."""
        self._fanout.close()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        if self._pubsub is not None:
            await self._pubsub.aclose()

    async def _attach(self, channel: str) -> None:
        confirmed = self._confirmed[channel] = asyncio.Event()
        try:
            if self._pubsub is None:
                self._pubsub = self._waiting.pubsub()
            async with asyncio.timeout(_CONFIRM_SECONDS):
                await self._pubsub.subscribe(self._prefix + channel)
                if self._reader is None:
                    self._reader = asyncio.create_task(self._read(self._pubsub), name="bus-broadcast")
                await confirmed.wait()
        except (RedisError, TimeoutError) as error:
            raise Unavailable(f"bus: subscription to {channel} was not confirmed") from error
        finally:
            del self._confirmed[channel]

    async def _detach(self, channel: str) -> None:
        # A server that is away has forgotten the subscription by itself.
        with suppress(RedisError):
            if self._pubsub is not None:
                await self._pubsub.unsubscribe(self._prefix + channel)

    async def _read(self, pubsub: PubSub) -> None:
        reconnect = Reconnect()
        while True:
            try:
                received = cast(dict[str, Any] | None, await pubsub.get_message(timeout=_READ_SECONDS))
                reconnect.succeeded()
            except RedisError as error:
                if reconnect.to_report():
                    _log.warning("bus.broadcast_unreachable", error=str(error))
                await reconnect.wait()
                continue
            if received is None:
                continue
            channel = cast(bytes, received["channel"]).decode().removeprefix(self._prefix)
            if received["type"] == "message":
                self._fanout.deliver(channel, received["data"])
            elif received["type"] == "subscribe" and channel in self._confirmed:
                self._confirmed[channel].set()
