"""A link to a sandbox that is a pod: created, connected by `exec`, spoken to through its agent, and deleted."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from slipway_tools.sandbox import rootfs
from slipway_tools.sandbox.kubernetes import frames, pod
from slipway_tools.sandbox.kubernetes.cluster import ApiError, Cluster
from slipway_tools.sandbox.kubernetes.doors import Doors
from slipway_tools.sandbox.kubernetes.image import Manifest
from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.link import Berth, Ears
from slipway_tools.sandbox.pipes import PipeEnded

log = structlog.get_logger(__name__)
_PING_SECONDS = 20.0
_SILENCE_SECONDS = 60.0
_EVIDENCE_SECONDS = 4.0  # until the node has said why a container ended
_GONE_SECONDS = 30.0
_REPORT = 3  # the descriptor inside
_NEVER = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
          "CreateContainerError", "RunContainerError")  # fmt: skip


class NotStarted(Exception):
    """The pod did not become a sandbox; the message is a clause for people."""


@dataclass(frozen=True)
class Fleet:
    """What all pods have in common. `idle_seconds` is how long one may wait for its first program."""

    cluster: Cluster
    shape: pod.PodShape
    wanted: Manifest
    idle_seconds: float


class PodLink:
    """Not a pod before something is sent: what waits as a launcher costs nothing."""

    def __init__(self, fleet: Fleet, berth: Berth, ears: Ears) -> None:
        self.name = pod.new_name()
        self._fleet = fleet
        self._ears = ears
        self._egress = berth.egress
        self._connection: ClientConnection | None = None
        self._doors: Doors | None = None
        self._connected = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._deletion: asyncio.Task[None] | None = None
        self._ended = False
        self._refusal = "the pod did not become a sandbox in time"
        self._journal = bytearray()
        self._born = self._heard = time.monotonic()
        self._used = False

    @property
    def alive(self) -> bool:
        """True while it can take a program; a pod that nobody used for long is replaced before its deadline."""
        if self._ended or (self._life is not None and self._life.done()):
            return False
        return self._used or self._life is None or time.monotonic() - self._born < self._fleet.idle_seconds

    async def send(self, parts: list[bytes]) -> None:
        """Send to the runner, in a pod that is created the first time; raises PipeEnded."""
        if self._life is None:
            self._born = time.monotonic()
            self._life = asyncio.create_task(self._live())
        if not parts:
            return
        self._used = True
        await self._connected.wait()
        # Small parts go in one message: each one passes through the cluster's API.
        for piece in frames.frames(b"c", b"".join(parts)):
            await self._say(piece)

    def drain(self, most: int) -> None:
        """Nothing: what a program printed comes before the report of its end."""

    def refusal(self) -> tuple[str, str]:
        """Why the pod is no sandbox."""
        return self._refusal, self._journal.decode(errors="replace")

    async def out_of_memory(self) -> bool:
        """True if the node ended the pod's container for want of memory."""
        with contextlib.suppress(TimeoutError, ApiError):
            async with asyncio.timeout(_EVIDENCE_SECONDS), contextlib.aclosing(self._changes()) as changes:
                async for state in changes:
                    ended = None if state is None else _container(state).get("terminated")
                    if ended or state is None:
                        return bool(ended and ended.get("reason") == "OOMKilled")
        return False

    def kill(self) -> None:
        """Tell the agent, and have the pod deleted, which also ends one that does not listen."""
        if self._deletion is None:
            self._deletion = asyncio.create_task(self._delete())

    async def end(self) -> None:
        """Delete the pod, and wait until its node has said that nothing is left of it."""
        self._ended = True
        self.kill()
        assert self._deletion is not None  # noqa: S101 - `kill` made it
        await self._deletion

    async def _delete(self) -> None:
        if self._life is None:
            return
        if self._connection is not None:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(1):
                    await self._connection.send(b"\0" + frames.frame(b"k"))
        try:
            await self._fleet.cluster.delete(self.name)
            async with asyncio.timeout(_GONE_SECONDS), contextlib.aclosing(self._changes()) as changes:
                async for state in changes:
                    if state is None:
                        break
        except (TimeoutError, ApiError) as error:
            # Its deadline ends it at the latest, and the next look for orphans removes it.
            log.error("sandbox.pod_left", pod=self.name, reason=str(error) or "it does not end")
        finally:
            self._life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._life

    async def _live(self) -> None:
        """From the pod's creation to the end of its connection."""
        try:
            await self._fleet.cluster.create(self._fleet.shape.manifest(self.name))
            await self._running()
            command = [*pod.AGENT, "serve"]
            async with self._fleet.cluster.execute(self.name, pod.CONTAINER, command) as self._connection:
                await self._begin(self._connection)
        except (ApiError, NotStarted) as error:
            self._refusal = str(error)
        except ConnectionClosed:
            pass
        except ValueError as error:
            log.error("sandbox.agent_broken", pod=self.name, reason=str(error))
        finally:
            if self._doors is not None:
                self._doors.close()
            self._connection = None
            self._connected.set()  # who waits to send is told that there is nobody
            self._ears.report.finish()

    async def _running(self) -> None:
        async with contextlib.aclosing(self._changes()) as changes:
            async for state in changes:
                if state is None or state["status"].get("phase") in ("Succeeded", "Failed"):
                    raise NotStarted("the pod ended before it was used")
                container = _container(state)
                if "running" in container:
                    return
                waiting: dict[str, Any] = container.get("waiting") or {}
                if waiting.get("reason") in _NEVER:
                    raise NotStarted(f"{waiting['reason']}: {waiting.get('message', self._fleet.shape.image)}")
                self._refusal = _why_pending(state) or self._refusal

    def _changes(self) -> Any:
        return self._fleet.cluster.changes(self.name)

    async def _begin(self, connection: ClientConnection) -> None:
        """Have the agent begin, and hear it until its end."""
        heard = self._listen(connection)
        first = await anext(heard, None)
        if first is None or first[0] != b"h":
            raise NotStarted(self._complaint("the image holds no agent of Slipway's sandbox"))
        missing = self._fleet.wanted.lacking(first[2])
        if missing:
            raise NotStarted(missing)
        certificate = None if self._egress is None else (self._egress / "ca.pem").read_text()
        if self._egress is not None:
            self._doors = Doors(self._egress, self._say)
        settings = json.dumps(_settings(self._fleet.shape.limits, certificate)).encode()
        await connection.send(b"\0" + frames.frame(b"b", settings))
        self._connected.set()
        pings = asyncio.create_task(self._ping())
        try:
            async for kind, number, content in heard:
                self._take(kind, number, content)
        finally:
            pings.cancel()
        self._refusal = self._complaint("the runner did not start")

    def _take(self, kind: bytes, number: int, content: bytes) -> None:
        if kind == b"o":
            self._ears.stdout(content)
        elif kind == b"e":
            self._ears.stderr(content)
        elif kind == b"r":
            self._ears.report.feed(content)
        elif kind == b"z":
            self._ears.report.finish()
        elif kind in (b"n", b"d", b"w", b"x") and self._doors is not None:
            self._doors.heard(kind, number, content)

    async def _listen(self, connection: ClientConnection) -> AsyncIterator[tuple[bytes, int, bytes]]:
        """The agent's frames, until the connection ends."""
        taken = frames.Frames()
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                if not isinstance(message, bytes) or not message:
                    continue
                self._heard = time.monotonic()
                if message[0] == 1:
                    for each in taken.add(message[1:]):
                        yield each
                elif message[0] in (2, 3):  # what it complains of, and how it ended
                    self._journal += message[1 : 1 + max(4096 - len(self._journal), 0)]

    async def _ping(self) -> None:
        """An agent that does not answer is lost, and so is one that an end of ours is not told to."""
        with contextlib.suppress(PipeEnded):
            while time.monotonic() - self._heard < _SILENCE_SECONDS:
                await self._say(frames.frame(b"p"))
                await asyncio.sleep(_PING_SECONDS)
            log.error("sandbox.agent_silent", pod=self.name)
            if self._connection is not None:
                await self._connection.close()

    async def _say(self, message: bytes) -> None:
        if self._connection is None:
            raise PipeEnded
        try:
            await self._connection.send(b"\0" + message)
        except ConnectionClosed:
            raise PipeEnded from None

    def _complaint(self, otherwise: str) -> str:
        words = self._journal.decode(errors="replace")
        if "refused: " in words:
            call = words.partition("refused: ")[2].partition("\n")[0]
            return (
                f"RuntimeClass {self._fleet.shape.runtime_class} lets a pod make no namespaces of its own ({call}):"
                " the sandbox needs gVisor"
            )
        return otherwise


def _settings(limits: Limits, certificate: str | None) -> dict[str, Any]:
    """What the agent is told to begin with."""
    return {
        "workspace": limits.workspace,
        "inodes": limits.inodes,
        "certificate": certificate,
        "command": rootfs.runner_command(_REPORT, egress=certificate is not None),
        "rlimits": {
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": limits.file_size,
            "RLIMIT_MEMLOCK": 0,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_NPROC": limits.processes + 2,  # the pod's first process and the agent are of the same user
            "RLIMIT_STACK": 8 << 20,
        },
    }


def _container(state: dict[str, Any]) -> dict[str, Any]:
    statuses = state["status"].get("containerStatuses") or [{}]
    return statuses[0].get("state") or {}


def _why_pending(state: dict[str, Any]) -> str | None:
    for condition in state["status"].get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"no node has room for the pod: {condition.get('message', '')}"
    return None
