"""A consumer in a process of its own, to be killed: prints each delivery and never finishes one."""

import asyncio
import sys

from slipway_chassis.bus import Message, open_bus


async def main(url: str, namespace: str, max_deliveries: int) -> None:
    bus = await open_bus(url, namespace=namespace)

    async def never_ends(message: Message, deliveries: int) -> None:
        print(message.id, deliveries, flush=True)
        await asyncio.Event().wait()

    await bus.consume("run.wakeup", "workers", never_ends, max_deliveries=max_deliveries)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
