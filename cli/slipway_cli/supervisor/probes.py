"""Is it ready? Each probe returns when the server answers and raises when it does not."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx


def http_ok(url: str) -> Callable[[], Awaitable[None]]:
    """A probe that wants a 2xx answer from `url`."""

    async def probe() -> None:
        # Own servers on the loopback address: proxies from the environment have no say.
        async with httpx.AsyncClient(trust_env=False, timeout=3) as client:
            (await client.get(url)).raise_for_status()

    return probe


def valkey_answers(port: int, password: str) -> Callable[[], Awaitable[None]]:
    """A probe that authenticates and wants PONG."""

    async def probe() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"AUTH {password}\r\nPING\r\n".encode())
            if (await reader.readline(), await reader.readline()) != (b"+OK\r\n", b"+PONG\r\n"):
                raise ConnectionError("no PONG")
        finally:
            writer.close()

    return probe
