"""The provider behind both arms: nginx for whole answers, and a paced stream of 64 deltas.

nginx answers at once and costs 0.01 ms a request. nginx has no clock between writes, so streams come from a small
server here: 64 deltas, PACE seconds apart, each with the moment at which it was sent as its text (`time.monotonic_ns`,
the same clock in all processes of a machine), so that whoever reads the answer knows how long each delta took.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slipway_testkit.servers.process import ServerProcess, ServerUnavailable, accepts_connections, free_port

MODEL = "bench-model"
DELTAS = 64
PACE = 0.02

_ANSWER = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1764000000,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The refund was sent on Monday and arrives within five days."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 42, "completion_tokens": 14, "total_tokens": 56},
}
_NGINX = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 10000000;
  keepalive_timeout 600s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{ default_type application/json; return 200 '{answer}'; }}
  }}
}}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[tuple[str, int]]:
    """A running nginx: its base URL, and its process id. ServerUnavailable when Debian's package is missing."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise ServerUnavailable("nginx is not installed: apt-get install nginx")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, answer=json.dumps(_ANSWER)))
    server = ServerProcess("nginx", [program, "-c", str(config), "-p", str(folder)], folder / "nginx.log")
    server.start(lambda: accepts_connections(port), timeout=20)
    try:
        yield f"http://127.0.0.1:{port}/v1", server.pid
    finally:
        server.stop()


class _Paced(asyncio.Protocol):
    """One connection: whatever is asked, the answer is the paced stream."""

    def __init__(self) -> None:
        self._received = b""
        self._streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        if len(body) >= int(lengths[0]):
            self._received = b""
            self._streaming = asyncio.get_running_loop().create_task(self._stream())

    def connection_lost(self, exc: Exception | None) -> None:
        if self._streaming is not None:
            self._streaming.cancel()

    async def _stream(self) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._event({"role": "assistant", "content": ""})
        for number in range(DELTAS):
            # From the beginning, so that a late wake-up does not shift the deltas after it.
            await asyncio.sleep(began + number * PACE - loop.time())
            self._event({"content": f"{time.monotonic_ns()} "})
        self._event({}, "stop")
        usage = {"prompt_tokens": 42, "completion_tokens": DELTAS, "total_tokens": 42 + DELTAS}
        self._send(json.dumps({**_HEAD, "choices": [], "usage": usage}).encode())
        self._send(b"[DONE]")
        self._transport.write(b"0\r\n\r\n")

    def _event(self, delta: dict[str, str], finish: str | None = None) -> None:
        self._send(json.dumps({**_HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode())

    def _send(self, data: bytes) -> None:
        frame = b"data: " + data + b"\n\n"
        self._transport.write(b"%x\r\n%b\r\n" % (len(frame), frame))


_HEAD = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1764000000, "model": MODEL}


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Paced, "127.0.0.1", port, backlog=256)
    await server.serve_forever()


if __name__ == "__main__":
    import sys

    import uvloop

    uvloop.run(_serve(int(sys.argv[1])))
