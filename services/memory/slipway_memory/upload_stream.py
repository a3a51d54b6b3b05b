"""Upload streams: one description, then bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator

from slipway.memory.v1 import memory_pb2 as pb

from slipway_memory.errors import UploadIncomplete

_MOST_PART_BYTES = 1024 * 1024


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


async def data_parts(
    stream: AsyncIterator[pb.PutDocumentRequest] | AsyncIterator[pb.UploadFileRequest],
) -> AsyncIterator[bytes]:
    """The bytes that follow. Raises UploadIncomplete for any other part, or one that is too long."""
    async for part in stream:
        if part.WhichOneof("part") != "data":
            raise UploadIncomplete("after its description, an upload has bytes only", field="part")
        if len(part.data) > _MOST_PART_BYTES:
            raise UploadIncomplete("a part has at most 64 KiB", field="data")
        yield part.data


def _no_opening() -> UploadIncomplete:
    return UploadIncomplete("the first part of an upload is its description", field="part")
