"""The object store: a folder (`file:///…`) or anything S3-compatible (`s3://bucket`), by URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlparse

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from slipway_memory.errors import ObjectStoreUnavailable

_PART_BYTES = 64 * 1024


def object_key(tenant: str, kind: str, identifier: str) -> str:
    """Key of an object: `<kind>/<tenant>/<id>`, the tenant quoted so that it is one part of the path."""
    return f"{kind}/{quote(tenant, safe='').replace('.', '%2E').replace('%', '=')}/{identifier}"


class Objects:
    """Puts, reads and deletes objects. Raises ObjectStoreUnavailable when the store does not answer."""

    def __init__(self, url: str) -> None:
        """`url`: `file:///folder` (made if missing, readable by the service alone), `s3://bucket/prefix`."""
        self._store: ObjectStore
        if url.startswith("file://"):
            folder = Path(unquote(urlparse(url).path))
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._store = LocalStore(folder)
        else:
            self._store = from_url(url)

    async def put(self, key: str, file: IO[bytes]) -> None:
        """Stores the whole of `file`; in parts, so that memory does not grow with it. All or nothing."""
        file.seek(0)
        try:
            await obstore.put_async(self._store, key, file)
        except (BaseError, OSError) as error:
            raise ObjectStoreUnavailable("the object store does not take the bytes", retry_after=5) from error

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Yields the object's bytes in parts of at most 64 KiB."""
        try:
            answer = await obstore.get_async(self._store, key)
            async for piece in answer.stream(min_chunk_size=_PART_BYTES):
                whole = memoryview(bytes(piece))
                for start in range(0, len(whole), _PART_BYTES):
                    yield bytes(whole[start : start + _PART_BYTES])
        except (BaseError, OSError) as error:
            raise ObjectStoreUnavailable("the object store does not give the bytes", retry_after=5) from error

    async def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is as good as deleted."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise ObjectStoreUnavailable("the object store does not delete", retry_after=5) from error

    async def check(self) -> None:
        """Raises ObjectStoreUnavailable unless the store answers."""
        try:
            await obstore.head_async(self._store, "health")
        except FileNotFoundError:
            return
        except (BaseError, OSError) as error:
            raise ObjectStoreUnavailable("the object store does not answer") from error
