"""An outbox relay in a process of its own, to be killed."""

import asyncio
import sys

from slipway_chassis.bus import open_bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.outbox import Outbox
from slipway_chassis.postgres import open_pool


async def main(database_url: str, bus_url: str, namespace: str, data_key: str) -> None:
    pool = await open_pool(database_url)
    bus = await open_bus(bus_url, namespace=namespace)
    await Outbox(pool, bus, SubjectKeys(pool, data_key)).relay()


asyncio.run(main(*sys.argv[1:]))
