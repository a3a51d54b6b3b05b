"""The message bus: durable topics with consumer groups, and an ephemeral broadcast. The URL chooses the adapter.

What both adapters promise (tests/contract/test_bus.py holds them to it):

- ``publish`` returns after the broker has the message; before the first group of a topic exists, the topic keeps it.
- Every group of a topic gets every message at least once; within a group one consumer gets it at a time.
- A handler that raises sees the message again after a growing delay (see ``retry_delay``), with the count of
  deliveries; after ``max_deliveries`` it goes to the dead letters of the group, with the reason.
- A consumer that dies gives its messages back: at once on AMQP (about 30 s if it froze), within 15 s on Valkey.
- Once a group exists, first deliveries come in the order of publishing, to a single consumer with ``concurrency=1``
  strictly so. Redeliveries come when they are due: whoever needs order needs a sequence number of its own.
- Duplicates are possible (a lost acknowledgement): consumers are idempotent by ``Message.id``.
"""

from slipway_chassis.bus.message import (
    DEAD_DELIVERIES,
    DEAD_REASON,
    MAX_BODY_BYTES,
    Message,
    MessageTooLarge,
    check_name,
)
from slipway_chassis.bus.protocol import Bus, Handler

__all__ = [
    "DEAD_DELIVERIES",
    "DEAD_REASON",
    "MAX_BODY_BYTES",
    "Bus",
    "Handler",
    "Message",
    "MessageTooLarge",
    "open_bus",
]


async def open_bus(url: str, *, namespace: str = "slipway") -> Bus:
    """The bus behind `url`: redis://, rediss://, valkey://, valkeys:// or unix:// (streams), amqp:// or amqps://.

    Connections are opened on first use, so that a service starts while its broker is down; `ping` tells. Names of
    topics, groups and channels live in `namespace`. Raises ValueError for another scheme.
    """
    check_name("namespace", namespace)
    scheme = url.partition("://")[0]
    if scheme in {"redis", "rediss", "valkey", "valkeys", "unix"}:
        from slipway_chassis.bus.valkey_streams import ValkeyBus

        return ValkeyBus(url, namespace)
    if scheme in {"amqp", "amqps"}:
        from slipway_chassis.bus.amqp import AmqpBus

        return AmqpBus(url, namespace)
    raise ValueError(f"bus URL: scheme {scheme!r} is none of redis, rediss, valkey, valkeys, unix, amqp, amqps")
