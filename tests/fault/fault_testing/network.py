"""Proxies between a stack and its servers, in a thread of their own, so that tests can disturb what goes through."""

import asyncio
import threading
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager

from slipway_testkit.faulty_proxy import FaultyProxy, Mode, faulty_proxy


class Network:
    """One proxy per port of a server; several ports may belong to one server."""

    def __init__(self) -> None:
        self._proxies: dict[str, list[FaultyProxy]] = {}
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def port(self, server: str, port: int) -> int:
        """A port that leads to one of 127.0.0.1 through the network."""
        entering = self._stack.enter_async_context(faulty_proxy(("127.0.0.1", port)))
        proxy = asyncio.run_coroutine_threadsafe(entering, self._loop).result(10)
        self._proxies.setdefault(server, []).append(proxy)
        return int(proxy.address.rpartition(":")[2])

    @contextmanager
    def failing(self, server: str, mode: Mode) -> Generator[None]:
        """Inside, what goes to a server and comes from it fails in one way; afterwards its connections are cut."""
        proxies = self._proxies[server]
        for proxy in proxies:
            proxy.mode = mode
            if mode == "http-503":
                self._loop.call_soon_threadsafe(proxy.cut)
        try:
            yield
        finally:
            for proxy in proxies:
                proxy.mode = "forward"
                self._loop.call_soon_threadsafe(proxy.cut)

    @contextmanager
    def delayed(self, seconds: float) -> Generator[None]:
        """Inside, everything takes longer by so much in each direction."""
        proxies = [proxy for of_server in self._proxies.values() for proxy in of_server]
        for proxy in proxies:
            proxy.delay = seconds
        try:
            yield
        finally:
            for proxy in proxies:
                proxy.delay = 0

    def close(self) -> None:
        """Ends the proxies and the thread."""
        asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
