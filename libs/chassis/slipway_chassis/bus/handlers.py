"""Running handlers: bounded in number, and bounded in time when their consumer stops."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from opentelemetry.trace import SpanKind

from slipway_chassis import telemetry
from slipway_chassis.bus.message import Message, failure_reason
from slipway_chassis.bus.protocol import Handler
from slipway_chassis.logs import get_logger

DRAIN_SECONDS = 8.0
"""What running handlers get when their consumer is cancelled: less than a service's shutdown grace (10 s)."""

_log = get_logger(__name__)


class HandlerPool:
    """At most `concurrency` handlers at a time; the tasks belong to the pool until `drain` has ended them."""

    def __init__(self, concurrency: int) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` as soon as a slot is free. `work` handles its own errors."""
        task = asyncio.create_task(self._in_slot(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Waits for running work at most `seconds`, then cancels the rest. A second cancellation cuts it short."""
        try:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=seconds)
        finally:
            rest = list(self._tasks)
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    async def _in_slot(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            work.close()
            raise
        try:
            await work
        finally:
            self._slots.release()


async def attempt(handler: Handler, message: Message, deliveries: int, group: str) -> str | None:
    """Calls `handler`; returns None when it returned, or why it failed. Never raises but CancelledError.

    The handler runs in a span of the trace that the message came from.
    """
    attributes = {
        "messaging.operation.type": "process",
        "messaging.destination.name": message.topic,
        "messaging.consumer.group.name": group,
        "messaging.message.id": message.id,
    }
    parent = telemetry.extract(message.headers)
    try:
        with telemetry.span(f"process {message.topic}", kind=SpanKind.CONSUMER, parent=parent, attributes=attributes):
            await handler(message, deliveries)
    except Exception as error:  # noqa: BLE001 - the consumer loop: whatever a handler raises means "not done"
        reason = failure_reason(error)
        _log.warning(
            "bus.handler_failed",
            topic=message.topic,
            group=group,
            message_id=message.id,
            tenant=message.tenant,
            deliveries=deliveries,
            reason=reason,
        )
        return reason
    return None
