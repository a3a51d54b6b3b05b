"""Exchanges and queues of the bus, and messages as AMQP properties.

    publish ─► exchange <ns>.<topic> ─► queue <ns>.<topic>.<group>        one per group
                     └─ no group yet ─► queue <ns>.<topic>#unclaimed      the first group's consumers drain it
    failed  ─► exchange <ns>#retry.<ms> ─► queue <ns>#retry.<ms> ─ after <ms> ─► back to the group's queue
    given up ────────────────────────► queue <ns>.<topic>.<group>.dead

All queues are quorum queues. The retry queues hand over at least once (RabbitMQ 3.10): a message is gone from there
only when the group's queue has confirmed it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from aio_pika import DeliveryMode, ExchangeType
from aio_pika import Message as AmqpMessage
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue
from pamqp.common import FieldValue

from slipway_chassis.bus.backoff import RETRY_DELAYS, retry_delay
from slipway_chassis.bus.message import DEAD_DELIVERIES, DEAD_REASON, Message, decode_headers, encode_headers

_HEADERS = "slipway-headers"
_TENANT = "slipway-tenant"
_DELIVERIES = "slipway-deliveries"

# RabbitMQ 4 drops a message after 20 returns by default; here the consumers count, and keep what they give up.
_NO_DELIVERY_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Names:
    """Names of what belongs to one topic and group."""

    namespace: str
    topic: str
    group: str = ""

    @property
    def exchange(self) -> str:
        """Where the topic is published."""
        return f"{self.namespace}.{self.topic}"

    @property
    def unclaimed(self) -> str:
        """What was published before the topic's first group existed (an exchange and its queue)."""
        return f"{self.namespace}.{self.topic}#unclaimed"

    @property
    def queue(self) -> str:
        """The group's queue."""
        return f"{self.namespace}.{self.topic}.{self.group}"

    @property
    def dead(self) -> str:
        """The group's dead letters."""
        return f"{self.queue}.dead"

    def retry(self, deliveries: int) -> str:
        """Exchange that parks a message after its failed delivery number `deliveries`."""
        return _retry_name(self.namespace, retry_delay(deliveries))


async def declare_topic(channel: AbstractChannel, names: Names) -> AbstractExchange:
    """The topic's exchange, and the queue that keeps messages while there is no group."""
    fallback = await channel.declare_exchange(names.unclaimed, ExchangeType.FANOUT, durable=True)
    kept = await _quorum_queue(channel, names.unclaimed)
    await kept.bind(fallback)
    return await channel.declare_exchange(
        names.exchange, ExchangeType.FANOUT, durable=True, arguments={"alternate-exchange": names.unclaimed}
    )


async def declare_group(channel: AbstractChannel, names: Names) -> tuple[AbstractQueue, AbstractQueue]:
    """Everything a consumer needs; returns the group's queue and the queue of unclaimed messages."""
    topic = await declare_topic(channel, names)
    for delay in RETRY_DELAYS:
        await _declare_retry(channel, _retry_name(names.namespace, delay), delay)
    await declare_dead(channel, names)
    queue = await _quorum_queue(channel, names.queue)
    await queue.bind(topic)
    return queue, await channel.get_queue(names.unclaimed, ensure=False)


async def declare_dead(channel: AbstractChannel, names: Names) -> AbstractQueue:
    """The group's queue of dead letters."""
    return await _quorum_queue(channel, names.dead)


async def _declare_retry(channel: AbstractChannel, name: str, delay: float) -> None:
    exchange = await channel.declare_exchange(name, ExchangeType.FANOUT, durable=True)
    parked = await _quorum_queue(
        channel,
        name,
        {
            "x-message-ttl": round(delay * 1000),
            # The routing key, kept over the parking, is the name of the group's queue.
            "x-dead-letter-exchange": "",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    await parked.bind(exchange)


async def _quorum_queue(
    channel: AbstractChannel, name: str, arguments: Mapping[str, FieldValue] | None = None
) -> AbstractQueue:
    return await channel.declare_queue(
        name,
        durable=True,
        arguments={"x-queue-type": "quorum", "x-delivery-limit": _NO_DELIVERY_LIMIT, **(arguments or {})},
    )


def _retry_name(namespace: str, delay: float) -> str:
    return f"{namespace}#retry.{round(delay * 1000)}"


def encode(message: Message, *, deliveries: int = 0, dead_reason: str | None = None) -> AmqpMessage:
    """A persistent AMQP message. `deliveries` so far are carried on, or recorded with `dead_reason`."""
    headers: dict[str, FieldValue] = {_HEADERS: encode_headers(message.headers), _TENANT: message.tenant}
    if dead_reason is not None:
        headers |= {DEAD_REASON: dead_reason, DEAD_DELIVERIES: str(deliveries)}
    elif deliveries:
        headers[_DELIVERIES] = deliveries
    return AmqpMessage(
        message.body,
        message_id=message.id,
        type=message.topic,
        delivery_mode=DeliveryMode.PERSISTENT,
        headers=headers,
    )


def decode(incoming: AbstractIncomingMessage) -> Message:
    """Reverse of `encode`. Raises ValueError for a message that no publisher of this bus has written."""
    found = incoming.headers.get(_HEADERS)
    if not isinstance(found, str) or incoming.message_id is None or incoming.type is None:
        raise ValueError("AMQP message without the properties of a bus message")
    headers = decode_headers(found)
    headers |= {
        name: str(incoming.headers[name]) for name in (DEAD_REASON, DEAD_DELIVERIES) if name in incoming.headers
    }
    return Message(incoming.message_id, incoming.type, incoming.body, str(incoming.headers.get(_TENANT, "")), headers)


def delivery_number(incoming: AbstractIncomingMessage) -> int:
    """1 for the first delivery. Counts those before a parking, and those that a lost consumer never answered."""
    before = incoming.headers.get(_DELIVERIES)
    unanswered = incoming.headers.get("x-delivery-count")
    return sum(count for count in (before, unanswered) if isinstance(count, int)) + 1
