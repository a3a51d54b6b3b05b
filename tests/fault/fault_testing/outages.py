"""A stack whose servers a test may kill, and what its processes say meanwhile."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from slipway_testkit.stack import Stack

from fault_testing.processes import ops_url, running

SERVICES = ("gateway", "router", "orchestrator", "memory", "tools", "audit")
PROCESSES = (*SERVICES, "worker-1", "worker-2")
USES = {
    "postgres": PROCESSES,
    "redis": ("gateway", "router", "memory"),
    "bus": PROCESSES,
    "objects": ("memory",),
    "weaviate": ("memory",),
}
"""Which processes say that they miss a server. Nobody does of an identity provider whose keys are known."""


class Server(Protocol):
    """A server that can be killed and started again."""

    def stop(self, *, crash: bool = False) -> None: ...
    def start_if_stopped(self) -> None: ...


@dataclass(frozen=True)
class Outages:
    """A stack, and the servers below it by name."""

    stack: Stack
    servers: dict[str, Server]
    bus_url: str

    @contextmanager
    def of(self, *names: str) -> Generator[None]:
        """Inside, these servers are dead."""
        for name in names:
            self.servers[name].stop(crash=True)
        try:
            yield
        finally:
            self.bring_back()

    def bring_back(self) -> None:
        """Starts what is dead, all at once."""
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(lambda server: server.start_if_stopped(), self.servers.values()))

    def says(self, process: str) -> tuple[int, dict[str, Any]]:
        """Status and content of a process's /readyz."""
        child = running(self.stack, process)
        assert child is not None, f"{process} died"
        answer = httpx.get(ops_url(child, "readyz"), timeout=10)
        return answer.status_code, answer.json()

    def named(self, server: str, where: str) -> bool:
        """Whether every process that uses the server names it in this part of /readyz, with its status."""
        for process in USES[server]:
            status, said = self.says(process)
            if server not in said[where] or status != (503 if where == "missing" else 200):
                return False
        return True

    def alive(self) -> bool:
        """Whether every process says that it lives."""
        children = [running(self.stack, process) for process in PROCESSES]
        return all(child and httpx.get(ops_url(child, "livez"), timeout=10).is_success for child in children)

    def well(self) -> bool:
        """Whether nobody misses anything."""
        return all(
            self.says(process) == (200, {"status": "ok", "missing": {}, "degraded": {}}) for process in PROCESSES
        )
