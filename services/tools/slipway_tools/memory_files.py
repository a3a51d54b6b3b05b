"""Files of calls, from the memory service, with the access of whoever makes the call."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from slipway.memory.v1 import memory_pb2, memory_pb2_grpc
from slipway_chassis import channel
from slipway_chassis.caller import current_token
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.tls import ServiceTls

_SECONDS = 60.0
_PART = 1 << 16


class FileTooLarge(InvalidArgument):
    """The files of the call do not fit into the sandbox's workspace."""

    reason = "FILES_TOO_LARGE"


class MemoryFiles:
    """Downloads files from slipway.memory.v1."""

    def __init__(self, target: str, tls: ServiceTls | None = None) -> None:
        self._channel = channel.connect(target, tls)
        self._stub = memory_pb2_grpc.FilesServiceStub(self._channel)

    async def fetch(self, file_id: str, most: int) -> bytes:
        """The file's bytes; raises FileTooLarge, or what the memory service raises for this caller."""
        content = bytearray()
        request = memory_pb2.DownloadFileRequest(file_id=file_id)
        parts = channel.stream(self._stub.DownloadFile, request, token=current_token(), timeout=_SECONDS)
        async with aclosing(parts) as responses:  # pyright: ignore[reportArgumentType]
            async for part in responses:
                content += part.data
                if len(content) > most:
                    raise FileTooLarge(
                        f"{file_id} does not fit: {most} bytes are left in the workspace", field="/files"
                    )
        return bytes(content)

    async def store(self, name: str, content: bytes, content_type: str) -> str:
        """Keep a file for this caller; its id. Raises what the memory service raises for them."""

        async def parts() -> AsyncGenerator[memory_pb2.UploadFileRequest]:
            description = memory_pb2.FileDescription(filename=_filename(name), content_type=content_type)
            yield memory_pb2.UploadFileRequest(description=description)
            for start in range(0, len(content), _PART):
                yield memory_pb2.UploadFileRequest(data=content[start : start + _PART])
            yield memory_pb2.UploadFileRequest(end=memory_pb2.UploadEnd(size_bytes=len(content)))

        response: memory_pb2.UploadFileResponse = await channel.invoke(
            self._stub.UploadFile, parts(), token=current_token(), timeout=_SECONDS
        )
        return response.file.file_id

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


def _filename(name: str) -> str:
    """The last part of a path: files have names of 1 to 200 characters without `/`."""
    return name.rpartition("/")[2][-200:]
