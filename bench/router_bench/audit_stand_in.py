"""Takes audit events from the bus and gives receipts, as the audit service does, without keeping a log.

The log is another service's work, on another machine in production; without receipts the router's outbox would only
grow, and send all of it again. It takes what time the others leave: its work belongs to neither arm.
"""

import asyncio
import os
import sys

import uvloop
from slipway_chassis.bus import Message, open_bus
from slipway_chassis.receipts import Receipts


async def main(url: str) -> None:
    """Consume until the process is ended."""
    bus = await open_bus(url)
    receipts = Receipts(bus)

    async def receive(message: Message, deliveries: int) -> None:
        receipts.give([message.id])

    async with asyncio.TaskGroup() as group:
        group.create_task(receipts.run())
        group.create_task(bus.consume("audit.events", "audit", receive, concurrency=256))


if __name__ == "__main__":
    os.nice(19)
    uvloop.run(main(sys.argv[1]))
