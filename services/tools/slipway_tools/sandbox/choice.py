"""Which kind of sandbox, with what in it, of what size: from settings to an open pool."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from slipway_tools.sandbox import runtimes
from slipway_tools.sandbox.adapter import Adapter
from slipway_tools.sandbox.gvisor import Gvisor
from slipway_tools.sandbox.kubernetes.settings import PodSettings
from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.nsjail import Nsjail
from slipway_tools.sandbox.pool import PoolSize, SandboxPool
from slipway_tools.sandbox.program import Runtime
from slipway_tools.sandbox.rootfs import Image


@dataclass(frozen=True)
class SandboxChoice:
    """`kind` is `nsjail`, `runsc`, `runsc:` and the path of its binary, or `kubernetes`, which `pods` belongs to.
    `downgrade` False: a machine that can't bound memory of a sandbox as a whole runs no code.
    """

    kind: str
    state_dir: Path
    limits: Limits
    size: PoolSize
    runtimes: tuple[Runtime, ...]
    packages: tuple[str, ...]
    downgrade: bool
    pods: PodSettings | None = None

    async def open(self) -> SandboxPool:
        """Prepare and open the pool; raises SandboxUnavailable with what this machine lacks."""
        adapter = await (asyncio.to_thread(self._prepare) if self.pods is None else self._prepare_pods(self.pods))
        try:
            return await SandboxPool.open(adapter, self.size, require_cgroups=not self.downgrade)
        except BaseException:
            await adapter.close()
            raise

    def _prepare(self) -> Adapter:
        image = Image(self.state_dir, runtimes.programs(self.runtimes), self.packages)
        kind, _, binary = self.kind.partition(":")
        if kind == "runsc":
            return Gvisor.prepare(image, self.limits, binary)
        return Nsjail.prepare(image, self.limits)

    async def _prepare_pods(self, pods: PodSettings) -> Adapter:
        # What it takes is not loaded where sandboxes are processes of this machine.
        from slipway_tools.sandbox.kubernetes.adapter import Kubernetes
        from slipway_tools.sandbox.kubernetes.image import Manifest

        return await Kubernetes.prepare(pods, self.limits, Manifest.of(self.runtimes, self.packages))

    def libraries(self) -> dict[Runtime, str]:
        """The runtimes, with the libraries that their programs have, for people."""
        packages = f"the standard library, {', '.join(self.packages)}" if self.packages else "the standard library"
        return {name: packages if name == "python" else "" for name in self.runtimes}
