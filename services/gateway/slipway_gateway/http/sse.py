"""Server-sent events (WHATWG HTML, 9.2): framing, and a response that always closes what it reads from."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Send

HEARTBEAT: Final = b": keep-alive\n\n"
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}
DONE: Final = b"data: [DONE]\n\n"


def event(data: str, *, kind: str = "", identifier: str = "") -> bytes:
    """One event; `data` is JSON text, which holds no line break."""
    head = f"id: {identifier}\n" if identifier else ""
    if kind:
        head += f"event: {kind}\n"
    return f"{head}data: {data}\n\n".encode()


def data(value: Mapping[str, Any]) -> bytes:
    """An event without a name, as OpenAI's streams send them."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class ClosingStream(StreamingResponse):
    """A streamed response that closes its generator when the client goes away, so that calls behind it end."""

    def __init__(
        self, content: AsyncGenerator[bytes], status_code: int = 200, *, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(content, status_code, media_type=media_type, headers=headers)
        self._content = content

    async def stream_response(self, send: Send) -> None:
        """Sends the parts."""
        try:
            await super().stream_response(send)
        finally:
            await self._content.aclose()
