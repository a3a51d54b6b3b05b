"""The sandboxes of this process: so many slots, each with its control group and a launcher that waits ahead."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import structlog

from slipway_tools.errors import QueueFull
from slipway_tools.measures import SANDBOXES_BUSY
from slipway_tools.sandbox.cgroups import CgroupTree, SlotGroup
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.jail import Jail, clean_mount_points
from slipway_tools.sandbox.launch import Launch, Outcome, Program
from slipway_tools.sandbox.limits import Limits

log = structlog.get_logger(__name__)
_EMPTY_SECONDS = 5.0


class _Slot:
    def __init__(self, index: int, group: SlotGroup | None) -> None:
        self.index = index
        self.group = group
        self.ahead: Launch | None = None


class SandboxPool:
    """Runs programs, at most `slots` at a time; `queue` more may wait."""

    def __init__(self, jail: Jail, tree: CgroupTree | None, groups: list[SlotGroup | None], queue: int) -> None:
        self._jail = jail
        self._tree = tree
        self._slots: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for index, group in enumerate(groups):
            self._slots.put_nowait(_Slot(index, group))
        self._all = list(range(len(groups)))
        self._queue = queue
        self._waiting = 0
        self._tidying: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, state_dir: Path, limits: Limits, *, slots: int, queue: int) -> "SandboxPool":
        """Prepare the sandbox's root and groups, and run one program to see that it works.

        Raises:
            SandboxUnavailable: this machine forbids what is needed.
        """
        jail = await asyncio.to_thread(Jail.prepare, state_dir, limits)
        tree, groups = await asyncio.to_thread(_groups, limits, slots)
        pool = cls(jail, tree, groups, queue)
        try:
            await pool._prove()
        except BaseException:
            await pool.close()
            raise
        log.info("sandbox.ready", sandbox=pool.description)
        return pool

    @property
    def description(self) -> str:
        """What protects: recorded with every call."""
        base = "nsjail: namespaces user, mount, pid, ipc, uts, net, cgroup; seccomp allow list; rlimits"
        if self._tree is None:
            return f"{base}; no cgroups (downgrade: memory and CPU are bounded per process, not for all together)"
        return f"{base}; cgroup v{self._tree.version} {', '.join(self._tree.controllers)}"

    @property
    def downgraded(self) -> bool:
        """True when no control group bounds all processes of a program together."""
        return self._tree is None or "memory" not in self._tree.controllers

    async def run(self, program: Program) -> Outcome:
        """Run a program in a sandbox of its own; raises like `reserve` and what that gives."""
        async with self.reserve() as run:
            return await run(program)

    @contextlib.asynccontextmanager
    async def reserve(self) -> AsyncGenerator[Callable[[Program], Awaitable[Outcome]]]:
        """Wait for a sandbox and give what runs one program in it: files are fetched when there is one, not before.

        Raises:
            QueueFull: too many calls wait already.
            SandboxUnavailable: (running) no sandbox came up; nothing was run.
        """
        async with self._slot() as slot:
            yield functools.partial(self._run, slot)

    async def _run(self, slot: _Slot, program: Program) -> Outcome:
        launch, slot.ahead = slot.ahead, None
        if launch is not None and not launch.alive:
            await launch.discard()
            launch = None
        if launch is None:
            launch = Launch.start(self._jail, slot.group)
        try:
            return await launch.run(program)
        except SandboxUnavailable:
            # Nothing was run: another start may do, e.g. after a neighbour took the mount point away.
            return await Launch.start(self._jail, slot.group).run(program)

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncGenerator[_Slot]:
        if self._slots.empty() and self._waiting >= self._queue:
            raise QueueFull("all sandboxes are busy and the queue is full", retry_after=1)
        self._waiting += 1
        try:
            slot = await self._slots.get()
        finally:
            self._waiting -= 1
        SANDBOXES_BUSY.inc()
        try:
            yield slot
        finally:
            SANDBOXES_BUSY.dec()
            # The answer does not wait for it; the slot comes back when it is done, and `close` waits for all slots.
            task = asyncio.create_task(self._tidy(slot))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    async def _tidy(self, slot: _Slot) -> None:
        """Make a used slot ready for its next program."""
        try:
            if slot.group is not None:
                await _emptied(slot.group)
            with contextlib.suppress(SandboxUnavailable):  # the next call says so
                slot.ahead = slot.ahead or Launch.start(self._jail, slot.group)
        finally:
            self._slots.put_nowait(slot)

    async def _prove(self) -> None:
        outcome = await self.run(Program(b"print('sandbox')", b"", {}, 20.0))
        if outcome.ended != "exited" or outcome.exit_status != 0 or outcome.stdout != b"sandbox\n":
            raise SandboxUnavailable(
                f"the sandbox's Python does not run: {outcome.stderr.decode(errors='replace')[-300:]}"
            )

    async def close(self) -> None:
        """End what waits and remove everything this pool made on the machine."""
        for _ in self._all:
            slot = await self._slots.get()
            if slot.ahead is not None:
                await slot.ahead.discard()
            if slot.group is not None:
                await _emptied(slot.group)
        clean_mount_points()
        if self._tree is not None:
            await asyncio.to_thread(self._tree.close)


async def _emptied(group: SlotGroup) -> None:
    """The kernel takes a moment to take killed processes out of their group."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_EMPTY_SECONDS):
            while not group.empty():  # noqa: ASYNC110 - a control group tells nobody
                await asyncio.sleep(0.002)
            return
    log.error("sandbox.processes_left", groups=[str(folder) for folder in group.folders])


def _groups(limits: Limits, slots: int) -> tuple[CgroupTree | None, list[SlotGroup | None]]:
    tree = CgroupTree.open()
    if tree is None:
        log.warning("sandbox.downgraded", missing="cgroups", hint="run as root, or delegate a cgroup to this user")
        return None, [None] * slots
    try:
        return tree, [tree.slot(index, limits) for index in range(slots)]
    except OSError as error:
        tree.close()
        log.warning("sandbox.downgraded", missing="cgroups", hint=f"a limit was refused: {error.strerror}")
        return None, [None] * slots
