"""A stack whose servers a test may kill, and what its processes say meanwhile."""

import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil
from slipway_testkit.servers.process import ServerProcess
from slipway_testkit.stack import Stack

from fault_testing.network import Network
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


KILLS = int(os.environ.get("SLIPWAY_FAULT_KILLS", "2"))
"""How often each server is killed."""
ON_REQUEST = "SLIPWAY_FAULT_KILLS" in os.environ
"""Somebody has time: Keycloak is among the servers, and all interferences are tried."""
KEYCLOAK_KILLS = int(os.environ.get("SLIPWAY_FAULT_KEYCLOAK_KILLS", KILLS)) if ON_REQUEST else 0
"""How often Keycloak is killed, which takes half a minute to start; 0: people sign in at the development issuer."""


class Server(Protocol):
    """A server that can be killed and started again."""

    @property
    def process(self) -> ServerProcess: ...

    def stop(self, *, crash: bool = False) -> None: ...
    def start_if_stopped(self) -> None: ...


@dataclass(frozen=True)
class Outages:
    """A stack, and the servers below it by name."""

    stack: Stack
    servers: dict[str, Server]
    bus_url: str
    """URL of the bus, of the broker itself."""
    bucket: Path
    """Folder of the stack's objects."""
    collection: str
    """What the names of the stack's collections in Weaviate begin with."""
    network: Network | None = None
    """What lies between the stack and the servers; None: nothing."""

    @contextmanager
    def of(self, *names: str) -> Generator[None]:
        """Inside, these servers are dead."""
        for name in names:
            self.servers[name].stop(crash=True)
        try:
            yield
        finally:
            self.bring_back(*names)

    @contextmanager
    def frozen(self, name: str) -> Generator[None]:
        """Inside, no process of a server runs; its machine goes on to accept connections."""
        root = psutil.Process(self.servers[name].process.pid)
        processes = [root, *root.children(recursive=True)]
        for process in processes:
            # Servers have helpers that come and go.
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def bring_back(self, *names: str) -> None:
        """Starts what is dead of these servers, all at once; without names of all servers."""
        names = names or tuple(self.servers)
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: self.servers[name].start_if_stopped(), names))

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
