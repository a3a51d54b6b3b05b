"""Tells whether the object store can be used: `python -m slipway_memory.objects_check`.

Takes SLIPWAY_MEMORY_OBJECTS_URL, makes one round trip and writes nothing. Exits with 0, or with 1 and one sentence,
without the keys, about what is wrong.
"""

import asyncio
import logging
import os
import sys

import structlog

from slipway_memory.errors import ObjectStoreRefused, ObjectStoreUnavailable
from slipway_memory.objects import Objects


def main() -> None:
    """Check and exit."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    status = 0
    try:
        asyncio.run(Objects(os.environ.get("SLIPWAY_MEMORY_OBJECTS_URL", "")).check())
    except (ValueError, ObjectStoreRefused, ObjectStoreUnavailable) as error:
        sys.stdout.write(f"{error}\n")
        status = 1
    sys.stdout.flush()
    # At once: threads of the client library that meet an interpreter which is ending would abort the process.
    os._exit(status)


if __name__ == "__main__":
    main()
