"""Reading a request's body: bounded in size and in time, whatever the client declares."""

import asyncio
from typing import Final

from starlette.types import Message, Receive

from slipway_gateway.http.rejections import BodyTooLarge, HttpMalformed, RequestTimeout

# Longest silence of a client in the middle of its body.
IDLE_SECONDS: Final = 30.0


def declared_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """The Content-Length, or None for a chunked body or none. Raises HttpMalformed.

    Content-Length together with Transfer-Encoding is how requests are smuggled (RFC 9112, 6.3).
    """
    lengths = [value for name, value in headers if name == b"content-length"]
    if not lengths:
        return None
    if any(name == b"transfer-encoding" for name, _ in headers):
        raise HttpMalformed("Content-Length and Transfer-Encoding together are not accepted")
    if len(lengths) > 1 or not lengths[0].isdigit():
        raise HttpMalformed("the Content-Length is not one number")
    return int(lengths[0])


class BoundedReceive:
    """An ASGI `receive` that raises BodyTooLarge and RequestTimeout while the body comes.

    The limit holds from the beginning and is raised by routes that take uploads, before they read.
    """

    def __init__(self, receive: Receive, limit: int, declared: int | None) -> None:
        self._receive = receive
        self._declared = declared
        self._received = 0
        self._complete = False
        self.limit = limit

    async def __call__(self) -> Message:
        """The next part of the body; after it, whatever the server tells."""
        if self._complete:
            return await self._receive()
        self.check_declared()
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout(f"no byte of the body came for {IDLE_SECONDS:g} seconds") from None
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._received > self.limit:
                raise self._too_large()
        else:
            self._complete = True
        return message

    def check_declared(self) -> None:
        """Raises BodyTooLarge when the client itself says so: nothing of such a body is read."""
        if self._declared is not None and self._declared > self.limit:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self.limit} bytes", metadata={"limit_bytes": str(self.limit)})
