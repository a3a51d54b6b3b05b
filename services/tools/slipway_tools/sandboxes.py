"""The sandboxes of the service's life: opened when it starts, tried again while the machine forbids them."""

import asyncio

import structlog

from slipway_tools.egress.link import Egress
from slipway_tools.left_files import FileStore
from slipway_tools.measures import SANDBOXES_DOWNGRADED
from slipway_tools.python_tool import PythonTool
from slipway_tools.sandbox.choice import SandboxChoice
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.pool import SandboxPool
from slipway_tools.tainted_sessions import TaintedSessions

log = structlog.get_logger(__name__)
_TRY_AGAIN_SECONDS = 30.0


class Sandboxes:
    """Gives out what runs programs; without sandboxes it raises, and code is never run without one."""

    def __init__(self, choice: SandboxChoice, store: FileStore, egress: Egress) -> None:
        self._choice = choice
        self._store = store
        self._egress = egress
        self._tainted = TaintedSessions()
        self._pool: SandboxPool | None = None
        self._missing = SandboxUnavailable("the sandbox is being prepared", retry_after=2)
        self._tried = asyncio.Event()

    def python(self) -> PythonTool:
        """The tool; raises SandboxUnavailable with what is missing."""
        if self._pool is None:
            raise SandboxUnavailable(self._missing.message, retry_after=self._missing.retry_after)
        return PythonTool(self._pool, self._choice.limits, self._store, self._egress, self._tainted)

    async def keep_open(self) -> None:
        """Open the sandboxes, again and again until that works (background coroutine)."""
        while self._pool is None:
            try:
                self._pool = await self._choice.open()
                SANDBOXES_DOWNGRADED.set(self._pool.downgraded)
            except SandboxUnavailable as error:
                self._missing = error
                log.error("sandbox.unavailable", reason=error.message, hint="python -m slipway_tools.sandbox_check")
            self._tried.set()
            if self._pool is None:
                await asyncio.sleep(_TRY_AGAIN_SECONDS)

    def end_run(self, tenant: str, run: str) -> None:
        """The run ended: remove its sessions with their workspaces."""
        if self._pool is not None:
            self._pool.end_run(tenant, run)

    async def check(self) -> None:
        """Readiness: the first try is over. A machine that forbids sandboxes still serves HTTP tools."""
        if not self._tried.is_set():
            raise self._missing

    async def close(self) -> None:
        """Remove everything."""
        if self._pool is not None:
            await self._pool.close()
        self._egress.close()
