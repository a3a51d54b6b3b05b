"""Files of calls, from the memory service, with the access of whoever makes the call."""

from contextlib import aclosing

from slipway.memory.v1 import memory_pb2, memory_pb2_grpc
from slipway_chassis import channel
from slipway_chassis.caller import current_token
from slipway_chassis.errors import InvalidArgument

_SECONDS = 60.0


class FileTooLarge(InvalidArgument):
    """The files of the call do not fit into the sandbox's workspace."""

    reason = "FILES_TOO_LARGE"


class MemoryFiles:
    """Downloads files from slipway.memory.v1."""

    def __init__(self, target: str) -> None:
        self._channel = channel.connect(target)
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

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
