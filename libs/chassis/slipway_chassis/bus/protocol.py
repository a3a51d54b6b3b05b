"""The seam: what every bus adapter offers."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from slipway_chassis.bus.message import Message

Handler = Callable[[Message, int], Awaitable[None]]
"""Gets the message and the number of this delivery (1 is the first). Returning acknowledges, raising redelivers."""


class Bus(Protocol):
    """Durable topics with consumer groups, and an ephemeral broadcast."""

    async def publish(self, message: Message) -> None:
        """Hands `message` to the broker; returns when it has confirmed.

        Raises Unavailable when it did not (the message may have arrived nevertheless), MessageTooLarge, ValueError.
        """
        ...

    async def publish_all(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Hands all `messages` to the broker, in order, and waits for it once.

        Answers with what `publish` would have raised, or None, for each of them; one that is refused stops no other.
        """
        ...

    async def consume(
        self, topic: str, group: str, handler: Handler, *, concurrency: int = 8, max_deliveries: int = 5
    ) -> None:
        """Delivers messages of `topic` to `handler`, at most `concurrency` at a time, until cancelled.

        Goes on over restarts of the broker. When cancelled it takes no more messages and gives running handlers
        DRAIN_SECONDS; what is not acknowledged then is redelivered to another consumer.
        """
        ...

    async def dead_letters(self, topic: str, group: str, limit: int) -> list[Message]:
        """Up to `limit` dead letters, the oldest first, with headers DEAD_REASON and DEAD_DELIVERIES; they stay.

        Raises Unavailable.
        """
        ...

    async def replay_dead(self, topic: str, group: str) -> int:
        """Gives all present dead letters to `group` (to no other) again, counting from 1; returns how many.

        Raises Unavailable.
        """
        ...

    async def broadcast(self, channel: str, data: bytes) -> None:
        """Sends `data` to whoever subscribes to `channel` now; nobody else ever gets it. Raises Unavailable."""
        ...

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Inside the context, what is broadcast on `channel`, in order. Entering it raises Unavailable.

        Ephemeral: what comes while the broker is away is lost, and a reader that is too slow loses the oldest.
        """
        ...

    async def ping(self) -> None:
        """One round trip to the broker; raises Unavailable."""
        ...

    async def close(self) -> None:
        """Closes connections and ends subscriptions. Consumers are to be cancelled before."""
        ...
