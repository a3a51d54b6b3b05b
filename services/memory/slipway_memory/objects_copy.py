"""Copies all objects, for backups: `python -m slipway_memory.objects_copy save|load|remove|count FOLDER`.

Takes SLIPWAY_MEMORY_OBJECTS_URL. `save` copies what FOLDER does not have yet, so that a second one adds what came in
between; `load` copies everything back, and `remove` deletes what it copied; `count` says 0 or 1: whether there is
anything at all. Objects are never changed once they are written. Prints the number of objects; exits with 1 and a
sentence.
"""

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from slipway_memory.object_store import open_store

_AT_A_TIME = 8
_PART_BYTES = 8 * 1024 * 1024


def copy(source: LocalStore | S3Store, target: LocalStore | S3Store, *, known: frozenset[str]) -> int:
    """Copies all objects but those known; answers with the number copied."""

    def one(key: str) -> bool:
        try:
            # By way of a file: the library can't read from one store within a write to another.
            with tempfile.TemporaryFile() as file:
                for part in obstore.get(source, key).stream(min_chunk_size=_PART_BYTES):
                    file.write(part)
                file.seek(0)
                obstore.put(target, key, file)
        except FileNotFoundError:
            return False  # deleted in between
        return True

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        return sum(sum(threads.map(one, [key for key in keys if key not in known])) for keys in batches(source))


def remove(store: LocalStore | S3Store, keys: list[str]) -> int:
    """Deletes objects, whether they are there or not; answers with their number."""
    if keys:
        obstore.delete(store, keys)
    return len(keys)


def batches(store: LocalStore | S3Store) -> Iterator[list[str]]:
    """Keys of all objects, some at a time."""
    for batch in obstore.list(store):
        yield [meta["path"] for meta in batch]


def carry_out(command: str, folder: str) -> int:
    """Does what the command line says; answers with what it prints."""
    # Only calls that block: after asynchronous ones the library's threads may meet an interpreter that is ending.
    store = open_store(os.environ.get("SLIPWAY_MEMORY_OBJECTS_URL", ""))
    if command == "count":
        return int(any(batches(store)))
    kept = open_store(folder)
    if command == "save":
        return copy(store, kept, known=frozenset(key for keys in batches(kept) for key in keys))
    if command == "remove":
        return remove(store, [key for keys in batches(kept) for key in keys])
    return copy(kept, store, known=frozenset())


def main() -> None:
    """The command."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    parser = argparse.ArgumentParser(prog="python -m slipway_memory.objects_copy", description="Copies all objects.")
    parser.add_argument("command", choices=["save", "load", "remove", "count"])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(f"{carry_out(arguments.command, arguments.folder.absolute().as_uri())}\n")
    except (ValueError, BaseError, OSError) as error:
        sys.stdout.write(f"{str(error).partition(chr(10))[0]}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
