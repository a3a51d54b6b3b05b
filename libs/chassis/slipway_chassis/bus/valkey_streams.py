"""The bus over Valkey or Redis 7: a stream per topic, a consumer group per group, pub/sub for the broadcast.

Confirmed means: appended to the stream, and as durable as the server's append-only file makes it.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from slipway_chassis.bus.message import Message, MessageTooLarge, check_group, check_name, check_publishable
from slipway_chassis.bus.protocol import Handler
from slipway_chassis.bus.valkey_broadcast import ValkeyBroadcast
from slipway_chassis.bus.valkey_consumer import StreamConsumer
from slipway_chassis.bus.valkey_entries import decode_entry, encode_entry, stream_key
from slipway_chassis.errors import Unavailable
from slipway_chassis.redis_check import check_takes_writes

# Longer than the blocking read (valkey_consumer.BLOCK_MS), which it must not cut off.
_SOCKET_TIMEOUT = 10.0
_CONNECT_TIMEOUT = 3.0
# Publishers beyond these wait for their turn; each command takes a round trip.
_CONNECTIONS = 16
_PAGE = 100


class ValkeyBus:
    """Adapter of the Bus protocol."""

    def __init__(self, url: str, namespace: str) -> None:
        url = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
        commands = BlockingConnectionPool.from_url(
            url, max_connections=_CONNECTIONS, timeout=_SOCKET_TIMEOUT, **_connection_options()
        )
        self._client = Redis.from_pool(commands)
        self._commands = cast(Any, self._client)  # see valkey_group on its types
        # Apart, because these connections are held for as long as nothing comes.
        self._waiting: Redis = Redis.from_url(url, **_connection_options())
        self._namespace = namespace
        self._broadcast = ValkeyBroadcast(self._client, self._waiting, f"{namespace}:broadcast:")

    async def publish(self, message: Message) -> None:
        """See Bus.publish."""
        check_publishable(message)
        try:
            await self._commands.xadd(stream_key(self._namespace, message.topic), encode_entry(message))
        except RedisError as error:
            raise Unavailable(f"bus: message {message.id} for {message.topic} was not confirmed") from error

    async def publish_all(self, messages: Sequence[Message]) -> list[Exception | None]:
        """See Bus.publish_all. One round trip."""
        outcomes: list[Exception | None] = [None] * len(messages)
        sent: list[int] = []
        pipeline = self._commands.pipeline(transaction=False)
        for place, message in enumerate(messages):
            try:
                check_publishable(message)
                pipeline.xadd(stream_key(self._namespace, message.topic), encode_entry(message))
                sent.append(place)
            except (MessageTooLarge, ValueError) as error:
                outcomes[place] = error
        try:
            answers: list[object] = await pipeline.execute(raise_on_error=False)
        except RedisError as error:
            answers = [error] * len(sent)
        for place, answer in zip(sent, answers, strict=True):
            if isinstance(answer, Exception):
                message = messages[place]
                failure = Unavailable(f"bus: message {message.id} for {message.topic} was not confirmed")
                failure.__cause__ = answer
                outcomes[place] = failure
        return outcomes

    async def consume(
        self, topic: str, group: str, handler: Handler, *, concurrency: int = 8, max_deliveries: int = 5
    ) -> None:
        """See Bus.consume."""
        check_name("topic", topic)
        check_group(group)
        consumer = StreamConsumer(
            self._client,
            self._waiting,
            topic=topic,
            stream=stream_key(self._namespace, topic),
            dead=self._dead(topic, group),
            group=group,
            handler=handler,
            concurrency=concurrency,
            max_deliveries=max_deliveries,
        )
        await consumer.run()

    async def dead_letters(self, topic: str, group: str, limit: int) -> list[Message]:
        """See Bus.dead_letters."""
        try:
            entries = await self._commands.xrange(self._dead(topic, group), count=limit)
        except RedisError as error:
            raise Unavailable("bus: dead letters can't be read") from error
        return [decode_entry(fields) for _, fields in entries]

    async def replay_dead(self, topic: str, group: str) -> int:
        """See Bus.replay_dead. Each letter moves in one transaction, so that none is lost."""
        dead = self._dead(topic, group)
        stream = stream_key(self._namespace, topic)
        replayed = 0
        try:
            # Letters that come meanwhile stay: a message that fails at once would be replayed for ever.
            newest = await self._commands.xrevrange(dead, count=1)
            while newest and (page := await self._commands.xrange(dead, max=newest[0][0], count=_PAGE)):
                for entry_id, fields in page:
                    async with self._commands.pipeline(transaction=True) as pipeline:
                        pipeline.xadd(stream, encode_entry(decode_entry(fields), only_group=group))
                        pipeline.xdel(dead, entry_id)
                        await pipeline.execute()
                    replayed += 1
        except RedisError as error:
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
            await check_takes_writes(self._commands, f"{self._namespace}#ready")
        except RedisError as error:
            raise Unavailable("bus: Valkey does not answer, or takes no writes") from error

    async def close(self) -> None:
        """See Bus.close."""
        await self._broadcast.close()
        await self._waiting.aclose()
        await self._client.aclose()

    def _dead(self, topic: str, group: str) -> str:
        return stream_key(self._namespace, f"{topic}.{group}.dead")


def _connection_options() -> dict[str, Any]:
    return {
        "protocol": 2,
        "socket_timeout": _SOCKET_TIMEOUT,
        "socket_connect_timeout": _CONNECT_TIMEOUT,
        # One more try: a pooled connection that a restarted server has dropped is noticed only by using it.
        "retry": Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.1), 1),
    }
