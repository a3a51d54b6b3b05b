"""Consuming from a bus in tests: a handler that records, and consumers that end with their test."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from slipway_chassis.bus import Message


@dataclass
class Inbox:
    """A handler that records what it gets; `fail` decides what it raises."""

    fail: Callable[[Message, int], Exception | None] = lambda message, deliveries: None
    seen: list[tuple[Message, int]] = field(default_factory=list[tuple[Message, int]])

    async def __call__(self, message: Message, deliveries: int) -> None:
        """The handler."""
        self.seen.append((message, deliveries))
        if error := self.fail(message, deliveries):
            raise error

    @property
    def ids(self) -> list[str]:
        """Ids of the messages, one per delivery, in the order of delivery."""
        return [message.id for message, _ in self.seen]


class Consumers:
    """Starts consumers and ends those that a test leaves running."""

    def __init__(self) -> None:
        self._running: list[asyncio.Task[None]] = []

    def start(self, consuming: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `consuming` in a task, until it is stopped."""
        task = asyncio.create_task(consuming)
        self._running.append(task)
        return task

    async def stop(self, task: asyncio.Task[None]) -> None:
        """Cancels like a service that shuts down: the consumer may drain."""
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def close(self) -> None:
        """Stops all that still run; raises what one of them ended with."""
        for task in self._running:
            await self.stop(task)
