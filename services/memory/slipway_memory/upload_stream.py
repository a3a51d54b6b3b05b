"""Upload streams: one description, then bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import SlipwayError

from slipway_memory.errors import UploadIncomplete

_MOST_PART_BYTES = 1024 * 1024
_DRAIN_SECONDS = 5.0

Parts = AsyncIterator[pb.PutDocumentRequest] | AsyncIterator[pb.UploadFileRequest]


@asynccontextmanager
async def refused_in_words(stream: Parts) -> AsyncGenerator[None]:
    """When the block raises a SlipwayError, reads and forgets what the client still sends, for some seconds.

    A client of grpc.aio that is still sending when the status comes may report an internal error of its own instead.
    """
    try:
        yield
    except SlipwayError:
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                async for _ in stream:
                    pass
        raise


async def document_opening(stream: AsyncIterator[pb.PutDocumentRequest]) -> pb.DocumentDescription:
    """The description that opens an upload of a document. Raises UploadIncomplete for anything else."""
    async for part in stream:
        if part.WhichOneof("part") == "description":
            return part.description
        break
    raise _no_opening()


async def file_opening(stream: AsyncIterator[pb.UploadFileRequest]) -> pb.FileDescription:
    """The description that opens an upload of a file. Raises UploadIncomplete for anything else."""
    async for part in stream:
        if part.WhichOneof("part") == "description":
            return part.description
        break
    raise _no_opening()


async def data_parts(stream: Parts) -> AsyncIterator[bytes]:
    """The bytes that follow. Raises UploadIncomplete for any other part, or one that is too long."""
    async for part in stream:
        if part.WhichOneof("part") != "data":
            raise UploadIncomplete("after its description, an upload has bytes only", field="part")
        if len(part.data) > _MOST_PART_BYTES:
            raise UploadIncomplete("a part has at most 64 KiB", field="data")
        yield part.data


def _no_opening() -> UploadIncomplete:
    return UploadIncomplete("the first part of an upload is its description", field="part")
