"""Load: wrk for whole answers, and a reader of streams that times each delta."""

import asyncio
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httptools
import httpx
from slipway_testkit.servers.process import ServerUnavailable

from router_bench.provider import DELTAS, PACE

_LUA = """
wrk.method = "POST"
wrk.body = [[%(body)s]]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %(key)s"
local bad = 0
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('JSON{"requests":%%d,"seconds":%%.6f,"p50_ms":%%.3f,"p99_ms":%%.3f,"failed":%%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
STALL = 0.02
"""Seconds on the way after which a delta counts as stalled."""


@dataclass(frozen=True)
class Door:
    """Where an arm takes requests."""

    url: str
    key: str


@dataclass(frozen=True)
class Whole:
    """What wrk measured."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failed: int


def body(model: str, *, stream: bool = False) -> str:
    """A request of about 450 bytes, as a support desk sends it."""
    request = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are the assistant of a shop's support desk. Answer in one sentence."},
            {"role": "user", "content": "My order 4711 was cancelled last week. " * 6 + "Where is my refund?"},
        ],
        "max_tokens": 64,
        "temperature": 0.2,
    }
    return json.dumps(request | ({"stream": True} if stream else {}))


def first_answer(door: Door, model: str) -> None:
    """One request, however long it takes."""
    headers = {"authorization": f"Bearer {door.key}", "content-type": "application/json"}
    httpx.post(f"{door.url}/chat/completions", content=body(model), headers=headers, timeout=60).raise_for_status()


def wrk(door: Door, model: str, *, clients: int, seconds: float, cpu: int, folder: Path) -> Whole:
    """Runs wrk on one core. ServerUnavailable when Debian's package is missing."""
    program = shutil.which("wrk")
    if program is None:
        raise ServerUnavailable("wrk is not installed: apt-get install wrk")
    script = folder / "post.lua"
    script.write_text(_LUA % {"body": body(model), "key": door.key})
    command = [
        "taskset", "-c", str(cpu), program, "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s",
        "-s", str(script), f"{door.url}/chat/completions",
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Whole(**json.loads(output.split("JSON", 1)[1]))


@dataclass
class Streams:
    """What the readers of streams saw; times in seconds."""

    first: list[float]
    """From the request to the first delta."""
    late: list[float]
    """From the moment at which the provider sent a delta to its arrival."""
    gaps: list[float]
    """Time between deltas, less the provider's pace."""
    lost: int = 0
    streams: int = 0

    @property
    def stalls(self) -> int:
        """Deltas that took longer than STALL."""
        return sum(late > STALL for late in self.late)

    def percentile_ms(self, values: Sequence[float], percent: int) -> float:
        """A percentile in milliseconds."""
        return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1] * 1000, 3)


class _Reader(asyncio.Protocol):
    """Reads one stream."""

    def __init__(self, seen: Streams) -> None:
        self._seen = seen
        self._parser = httptools.HttpResponseParser(self)
        self._buffer = b""
        self._came: list[float] = []
        self._done = False
        self._last: bytes = b""
        self.ended = asyncio.get_running_loop().create_future()
        self.began = time.monotonic()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        now = time.monotonic()
        self._buffer += data
        *events, self._buffer = self._buffer.split(b"\n\n")
        for event in events:
            if event == b"data: [DONE]":
                self._done = True
            elif event.startswith(b"data: "):
                self._take(json.loads(event[6:]), now)

    def _take(self, chunk: dict[str, object], now: float) -> None:
        choices = chunk.get("choices")
        text = choices[0]["delta"].get("content") if choices else None  # type: ignore[index]
        for sent in (text or "").split():
            if not self._came:
                self._seen.first.append(now - self.began)
            else:
                self._seen.gaps.append(max(now - self._came[-1] - PACE, 0.0))
            self._seen.late.append(now - int(sent) / 1e9)
            self._came.append(now)

    def on_message_complete(self) -> None:
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.ended.done():
            self._seen.streams += 1
            self._seen.lost += DELTAS - len(self._came) + (not self._done)
            self.ended.set_result(None)


async def _client(door: Door, model: str, until: float, delay: float, seen: Streams) -> None:
    # Not in step: clients that begin together would all have their deltas in the same millisecond.
    await asyncio.sleep(delay)
    address, content = urlsplit(door.url), body(model, stream=True)
    headers = {
        "host": address.netloc,
        "authorization": f"Bearer {door.key}",
        "content-type": "application/json",
        "content-length": str(len(content)),
        "connection": "close",
    }
    lines = [f"POST {address.path}/chat/completions HTTP/1.1", *(": ".join(header) for header in headers.items())]
    head = "\r\n".join([*lines, "", ""])
    while time.monotonic() < until:
        loop = asyncio.get_running_loop()
        transport, reader = await loop.create_connection(lambda: _Reader(seen), address.hostname, address.port)
        reader.began = time.monotonic()
        transport.write((head + content).encode())
        await asyncio.wait_for(reader.ended, 60)
        transport.close()


async def streams(door: Door, model: str, *, clients: int, seconds: float) -> Streams:
    """Streams by `clients` at once, one after the other for `seconds`."""
    seen = Streams([], [], [])
    until = time.monotonic() + seconds
    delays = [PACE * number / clients for number in range(clients)]
    await asyncio.gather(*(_client(door, model, until, delay, seen) for delay in delays))
    return seen
