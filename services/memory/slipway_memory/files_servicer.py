"""FilesService over the domain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from slipway.memory.v1 import memory_pb2 as pb
from slipway.memory.v1 import memory_pb2_grpc
from slipway_chassis.caller import current_caller

from slipway_memory import convert
from slipway_memory.errors import FileTooLarge
from slipway_memory.file_store import StoredFile
from slipway_memory.files import Files
from slipway_memory.upload_stream import data_parts, file_opening, refused_in_words
from slipway_memory.uploads import spooled

Context = grpc.aio.ServicerContext[Any, Any]


class FilesServicer(memory_pb2_grpc.FilesServiceServicer):
    """Converts and calls."""

    def __init__(self, files: Files, *, file_bytes: int) -> None:
        self._files = files
        self._file_bytes = file_bytes

    async def UploadFile(
        self, request_iterator: AsyncIterator[pb.UploadFileRequest], context: Context
    ) -> pb.UploadFileResponse:
        """See proto."""
        async with refused_in_words(request_iterator):
            file = await self._upload(request_iterator)
        return pb.UploadFileResponse(file=convert.file_message(file))

    async def _upload(self, stream: AsyncIterator[pb.UploadFileRequest]) -> StoredFile:
        caller = current_caller()
        description = convert.file_description(await file_opening(stream))
        decision = self._files.permit_upload(caller, description)
        async with spooled(data_parts(stream), limit=self._file_bytes, too_large=self._too_large) as upload:
            return await self._files.upload(caller, description, upload, decision)

    def _too_large(self) -> FileTooLarge:
        return FileTooLarge(
            f"a file has at most {self._file_bytes} bytes",
            field="data",
            metadata={"limit_bytes": str(self._file_bytes)},
        )

    async def GetFile(self, request: pb.GetFileRequest, context: Context) -> pb.GetFileResponse:
        """See proto."""
        file = await self._files.get(current_caller(), request.file_id)
        return pb.GetFileResponse(file=convert.file_message(file))

    async def DownloadFile(
        self, request: pb.DownloadFileRequest, context: Context
    ) -> AsyncIterator[pb.DownloadFileResponse]:
        """See proto."""
        file = await self._files.get(current_caller(), request.file_id)
        parts = self._files.read(file)
        # Before anything is answered, so that a store that is away is an error and no answer that breaks off.
        first = await anext(parts, b"")
        yield pb.DownloadFileResponse(file=convert.file_message(file))
        if first:
            yield pb.DownloadFileResponse(data=first)
        async for part in parts:
            yield pb.DownloadFileResponse(data=part)

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Context) -> pb.DeleteFileResponse:
        """See proto."""
        await self._files.delete(current_caller(), request.file_id)
        return pb.DeleteFileResponse()
