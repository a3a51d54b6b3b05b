"""The object store: a folder or a bucket of anything S3-compatible, by URL (see `object_store`)."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager, suppress
from typing import IO
from urllib.parse import quote

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore
from slipway_chassis.logs import get_logger

from slipway_memory.errors import ObjectNotFound, ObjectStoreRefused, ObjectStoreUnavailable
from slipway_memory.metrics import OBJECT_SECONDS
from slipway_memory.object_store import open_store

_PART_BYTES = 64 * 1024
# Parts of an upload on their way at a time: what an upload needs of memory, at most.
_UPLOAD_PART_BYTES, _UPLOADS = 8 * 1024 * 1024, 2
_RETRY_AFTER = 5  # seconds
_KEYS_REFUSED = "the object store does not accept the keys, or they may not use the bucket"
_NOTHING = "health"  # a key that no object has

_log = get_logger(__name__)


def object_key(tenant: str, kind: str, identifier: str) -> str:
    """Key of an object: `<kind>/<tenant>/<id>`, the tenant quoted so that it is one part of the path."""
    return f"{kind}/{quote(tenant, safe='').replace('.', '%2E').replace('%', '=')}/{identifier}"


class Objects:
    """Puts, reads and deletes objects.

    All methods raise ObjectStoreUnavailable when the store does not answer in time (after the retries of the one layer
    that makes them), ObjectStoreRefused when it does not take the keys or has no such bucket.
    """

    def __init__(self, url: str) -> None:
        """`url`: see `open_store`, which raises ValueError."""
        self._store = open_store(url)

    async def put(self, key: str, file: IO[bytes]) -> None:
        """Stores the whole of `file`; in parts, so that memory does not grow with it. All or nothing; replaces."""
        file.seek(0)
        with _observed("put"):
            await obstore.put_async(self._store, key, file, chunk_size=_UPLOAD_PART_BYTES, max_concurrency=_UPLOADS)

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Yields the object's bytes in parts of at most 64 KiB. Raises ObjectNotFound."""
        # Time that the reader takes is not the store's: only the first answer is observed.
        with _observed("read"):
            answer = await obstore.get_async(self._store, key)
        with _translated("read"):
            async for piece in answer.stream(min_chunk_size=_PART_BYTES):
                whole = memoryview(bytes(piece))
                for start in range(0, len(whole), _PART_BYTES):
                    yield bytes(whole[start : start + _PART_BYTES])

    async def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is as good as deleted."""
        try:
            with _observed("delete"):
                await obstore.delete_async(self._store, key)
        except ObjectNotFound:
            return

    async def check(self) -> None:
        """One round trip. Raises ObjectStoreUnavailable, ObjectStoreRefused."""
        store = self._store
        with _translated("check"):
            if isinstance(store, LocalStore):
                await asyncio.to_thread(_check_folder, str(store.prefix))
                return
            with suppress(ObjectNotFound), _translated("check"):
                await obstore.get_async(store, _NOTHING)


async def open_objects(url: str) -> Objects:
    """The objects behind `url`. Raises ValueError with what is wrong with it: form, keys, bucket, permissions.

    A store that does not answer now is no reason not to start: readiness names it until it does.
    """
    objects = Objects(url)
    try:
        await objects.check()
    except ObjectStoreRefused as error:
        raise ValueError(str(error)) from error
    except ObjectStoreUnavailable as error:
        said = str(error.__cause__).partition("\n")[0]
        reason = f"{error} ({said}): start it, or correct the URL"
        _log.warning("server.away", setting="SLIPWAY_MEMORY_OBJECTS_URL", reason=reason)
    return objects


def _check_folder(folder: str) -> None:
    if not os.path.isdir(folder):
        raise ObjectStoreRefused(f"the folder {folder} is not there")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ObjectStoreRefused(f"the folder {folder} can't be written")


@contextmanager
def _observed(operation: str) -> Generator[None]:
    started = time.monotonic()
    outcome = "ok"
    try:
        with _translated(operation):
            yield
    except (ObjectNotFound, ObjectStoreRefused, ObjectStoreUnavailable) as error:
        outcome = error.reason.lower()
        raise
    finally:
        OBJECT_SECONDS.labels(operation, outcome).observe(time.monotonic() - started)


@contextmanager
def _translated(operation: str) -> Generator[None]:
    """Turns what the client library raises into this service's errors; the cause is for the log, not for callers."""
    try:
        yield
    except FileNotFoundError as error:
        match _code(error):
            case "" | "NoSuchKey":
                raise ObjectNotFound("the object is not there") from error
            case "NoSuchBucket":
                raise _refused(operation, "the object store has no such bucket") from error
            case _:
                # versitygw's answer to an access key that it does not know.
                raise _refused(operation, _KEYS_REFUSED) from error
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise _refused(operation, _KEYS_REFUSED) from error
    except (BaseError, OSError) as error:
        raise ObjectStoreUnavailable("the object store does not answer", retry_after=_RETRY_AFTER) from error


def _code(error: Exception) -> str:
    """S3's code of an error: one status stands for several."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else ""


def _refused(operation: str, message: str) -> ObjectStoreRefused:
    _log.error("objects.refused", operation=operation, reason=message)
    return ObjectStoreRefused(message, retry_after=_RETRY_AFTER)
