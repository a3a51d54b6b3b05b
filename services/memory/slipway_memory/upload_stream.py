"""Upload streams: one description, then bytes, then the word that they are whole."""

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
    """The bytes that follow, up to the end that the caller declares.

    Raises UploadIncomplete for any other part, one that is too long, or a stream that ends before its end: a caller
    that gives up half-way ends the stream too, and the cancellation may come later than what was sent.
    """
    size = 0
    async for part in stream:
        match part.WhichOneof("part"):
            case "data":
                if len(part.data) > _MOST_PART_BYTES:
                    raise UploadIncomplete("a part has at most 64 KiB", field="data")
                size += len(part.data)
                yield part.data
            case "end":
                if part.end.size_bytes != size:
                    raise UploadIncomplete(f"{part.end.size_bytes} bytes were sent, {size} arrived", field="end")
                return
            case _:
                raise UploadIncomplete("after its description, an upload has bytes and an end only", field="part")
    raise UploadIncomplete("the upload was cut off", field="end")


def _no_opening() -> UploadIncomplete:
    return UploadIncomplete("the first part of an upload is its description", field="part")
