"""Sandboxes that are pods of a cluster, under a RuntimeClass whose kernel is not the node's."""

import asyncio
import contextlib
from dataclasses import dataclass, field

import structlog

from slipway_tools.sandbox.adapter import Starting
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.kubernetes import access, pod
from slipway_tools.sandbox.kubernetes.cluster import ApiError, Cluster
from slipway_tools.sandbox.kubernetes.image import Manifest
from slipway_tools.sandbox.kubernetes.link import Fleet, PodLink
from slipway_tools.sandbox.kubernetes.settings import PodSettings
from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.link import Berth, Ears

log = structlog.get_logger(__name__)
IDLE_SECONDS = 3600.0  # a pod that waited so long for its first program is replaced
_SPARE_SECONDS = 900.0
_AGENT_SECONDS = 120.0  # from the start of a container, which is seen at once, to that of its agent
_SWEEP_SECONDS = 60.0
_FORBIDDEN, _NOT_FOUND = 403, 404
RIGHTS = (
    ("create", "pods"),
    ("get", "pods"),
    ("list", "pods"),
    ("watch", "pods"),
    ("delete", "pods"),
    ("get", "pods/exec"),
    ("create", "pods/exec"),
)


@dataclass(frozen=True)
class Kubernetes:
    """The adapter."""

    fleet: Fleet
    starting: Starting
    _sweeper: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    name: str = "kubernetes"
    overhead: None = None

    @classmethod
    async def prepare(cls, settings: PodSettings, limits: Limits, wanted: Manifest) -> "Kubernetes":
        """Look whether the cluster lets us, and remove what dead processes left there.

        Raises:
            SandboxUnavailable: something is missing; the message names it.
        """
        who = access.of_service_account() if settings.kubeconfig is None else access.of_kubeconfig(settings.kubeconfig)
        lifetime = IDLE_SECONDS + settings.session_seconds + limits.max_seconds + _SPARE_SECONDS
        shape = pod.PodShape(
            settings.image,
            settings.runtime_class,
            limits,
            settings.cpu_request,
            wait=_AGENT_SECONDS,
            lifetime=lifetime,
        )
        cluster = Cluster(who, settings.namespace)
        adapter = cls(
            Fleet(cluster, shape, wanted, IDLE_SECONDS), Starting(settings.start_seconds, at_a_time=8, again=(0.5,))
        )
        try:
            await _check(cluster, shape)
            await adapter._sweep()
        except ApiError as error:
            await cluster.close()
            raise SandboxUnavailable(_sentence(error, shape, cluster)) from error
        except BaseException:
            await cluster.close()
            raise
        adapter._sweeper.append(asyncio.create_task(adapter._keep_sweeping()))
        return adapter

    @property
    def limits(self) -> Limits:
        """The limits of each pod."""
        return self.fleet.shape.limits

    @property
    def protection(self) -> str:
        """What closes a program off."""
        return (
            f"kubernetes: a pod of its own under RuntimeClass {self.fleet.shape.runtime_class}, restricted, without"
            " token; in it namespaces user, mount, pid, ipc, uts, net; system-call filter; rlimits; the pod's limits"
            " of memory and processors"
        )

    @property
    def downgrades(self) -> tuple[str, ...]:
        """gVisor's kernel does not count the names in a tmpfs: memory bounds them."""
        return ("inodes are bounded by memory only",)

    def connect(self, berth: Berth, ears: Ears) -> PodLink:
        """A link that creates its pod when it is needed."""
        return PodLink(self.fleet, berth, ears)

    async def close(self) -> None:
        """Let go of the cluster; the pods were ended one by one."""
        for task in self._sweeper:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.fleet.cluster.close()

    async def _sweep(self) -> None:
        """Delete pods whose process is gone, and what ended without being deleted; raises ApiError."""
        for found in await self.fleet.cluster.pods(pod.OURS):
            if pod.is_orphan(found):
                log.info("sandbox.orphan_removed", pod=found["metadata"]["name"])
                await self.fleet.cluster.delete(found["metadata"]["name"])

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await self._sweep()
            except ApiError as error:
                log.warning("sandbox.orphans_not_looked_for", reason=error.message)


async def _check(cluster: Cluster, shape: pod.PodShape) -> None:
    for verb, resource in RIGHTS:
        if not await cluster.may(verb, resource):
            raise SandboxUnavailable(
                f"the service may not {verb} {resource} in the namespace {cluster.namespace}: bind its account to a"
                " Role with that right (docs/sandbox.md has it)"
            )
    await cluster.create(shape.manifest(pod.new_name()), only_try=True)


def _sentence(error: ApiError, shape: pod.PodShape, cluster: Cluster) -> str:
    if error.status == _NOT_FOUND and "namespaces" in error.message:
        return f"there is no namespace {cluster.namespace} (SLIPWAY_TOOLS_SANDBOX_NAMESPACE): create it"
    if error.status == _FORBIDDEN and "RuntimeClass" in error.message:
        return (
            f"the cluster has no RuntimeClass {shape.runtime_class} (SLIPWAY_TOOLS_SANDBOX_RUNTIME_CLASS): install"
            " gVisor on its nodes and create one"
        )
    if error.status == 0:
        return error.message
    return f"the cluster refuses the sandbox's pod in the namespace {cluster.namespace}: {error.message}"
