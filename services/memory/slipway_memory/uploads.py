"""Uploads are spooled to an unnamed temporary file: bounded while they come in, and gone whatever happens after."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import IO

from slipway_chassis.errors import SlipwayError


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes that came in: an open file, their number, and `sha256:` with their hex digest."""

    file: IO[bytes]
    size: int
    digest: str


@asynccontextmanager
async def spooled(
    parts: AsyncIterator[bytes], *, limit: int, too_large: Callable[[], SlipwayError]
) -> AsyncGenerator[Upload]:
    """Yields the upload; the file is deleted at the end of the block. Raises `too_large()` at the first byte over
    `limit`, without taking the rest in.
    """
    with tempfile.TemporaryFile(prefix="slipway-upload-") as file:
        digest = hashlib.sha256()
        size = 0
        async for part in parts:
            size += len(part)
            if size > limit:
                raise too_large()
            digest.update(part)
            file.write(part)
        file.flush()
        file.seek(0)
        yield Upload(file, size, f"sha256:{digest.hexdigest()}")
