"""Copies all objects, for backups: `python -m slipway_memory.objects_copy save|load|count FOLDER`.

Takes SLIPWAY_MEMORY_OBJECTS_URL. `save` copies what FOLDER does not have yet, so that a second one adds what came in
between; `load` copies everything back; `count` says 0 or 1: whether there is anything at all. Objects are never changed
once they are written. Prints the number of objects; exits with 1 and a sentence.
"""

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from slipway_memory.object_store import open_store

_AT_A_TIME = 8
_PART_BYTES = 8 * 1024 * 1024


async def copy(source: LocalStore | S3Store, target: LocalStore | S3Store, *, known: frozenset[str]) -> int:
    """Copies all objects but those known; answers with the number copied."""
    copied = 0
    slots = asyncio.Semaphore(_AT_A_TIME)

    async def one(key: str) -> bool:
        async with slots:
            try:
                answer = await obstore.get_async(source, key)
                await obstore.put_async(target, key, answer.stream(min_chunk_size=_PART_BYTES))
            except FileNotFoundError:
                return False  # deleted in between
        return True

    async for batch in obstore.list(source):
        keys = [meta["path"] for meta in batch if meta["path"] not in known]
        copied += sum(await asyncio.gather(*(one(key) for key in keys)))
    return copied


async def keys(store: LocalStore | S3Store) -> frozenset[str]:
    """Keys of all objects."""
    return frozenset([meta["path"] async for batch in obstore.list(store) for meta in batch])


async def is_empty(store: LocalStore | S3Store) -> bool:
    """Has no object."""
    async for batch in obstore.list(store, chunk_size=1):
        return not batch
    return True


async def _main(command: str, folder: str) -> int:
    store = open_store(os.environ.get("SLIPWAY_MEMORY_OBJECTS_URL", ""))
    if command == "count":
        return 0 if await is_empty(store) else 1
    kept = open_store(folder)
    if command == "save":
        return await copy(store, kept, known=await keys(kept))
    return await copy(kept, store, known=frozenset())


def main() -> None:
    """The command."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    parser = argparse.ArgumentParser(prog="python -m slipway_memory.objects_copy", description="Copies all objects.")
    parser.add_argument("command", choices=["save", "load", "count"])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(f"{asyncio.run(_main(arguments.command, arguments.folder.absolute().as_uri()))}\n")
    except (ValueError, BaseError, OSError) as error:
        sys.stdout.write(f"{str(error).partition(chr(10))[0]}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
