"""The sandboxes of this process: places with control groups made ahead, sandboxes started ahead, sessions.

A sandbox is given to one call, or to the session of one run, and never comes back: what waits has not seen anybody's
code yet.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from slipway_tools.measures import SANDBOXES_BUSY
from slipway_tools.sandbox.adapter import Adapter
from slipway_tools.sandbox.box import Box
from slipway_tools.sandbox.cgroups import CgroupTree, SlotGroup
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.held import Doorway, Held, Network, Place
from slipway_tools.sandbox.metrics import SANDBOXES_WARM
from slipway_tools.sandbox.program import Outcome, Program
from slipway_tools.sandbox.sessions import SessionKey, SessionLimits, Sessions
from slipway_tools.sandbox.turns import Turns

log = structlog.get_logger(__name__)
_EMPTY_SECONDS = 5.0
_BREATH_SECONDS = 0.05  # a call's answer, and the rest of a burst, go before what is done for later calls
_BURST_SECONDS = 0.5  # at most, what was used waits to be taken away
_ANSWER_SECONDS = 0.008  # until a call's answer is on its way


@dataclass(frozen=True)
class PoolSize:
    """How many programs run at a time and wait, how many sandboxes wait for a program, and the sessions' limits."""

    slots: int = 4
    queue: int = 1024
    warm: int = 4
    tenant_calls: int = 1024
    sessions: SessionLimits = field(default_factory=lambda: SessionLimits(64, 32, 900.0, 14_400.0))

    @property
    def places(self) -> int:
        """Room for sandboxes: running, waiting as launchers, being taken away, warm, and of sessions."""
        return 3 * self.slots + self.warm + self.sessions.most


@dataclass(frozen=True)
class SessionState:
    """What a caller learns of its session."""

    created: bool
    expire_time: datetime


Run = Callable[[Program], Awaitable[tuple[Outcome, SessionState | None]]]


class SandboxPool:
    """Runs programs in sandboxes of one adapter."""

    def __init__(
        self, adapter: Adapter, tree: CgroupTree | None, groups: list[SlotGroup | None], size: PoolSize
    ) -> None:
        self.adapter = adapter
        self._tree = tree
        self._size = size
        self._places: asyncio.Queue[Place] = asyncio.Queue()
        self._number = len(groups)
        for index, group in enumerate(groups):
            self._places.put_nowait(Place(index, group))
        self._turns = Turns(size.slots, size.queue, size.tenant_calls)
        self._sessions = Sessions(size.sessions, self._retire)
        self._launchers: deque[Held] = deque()
        self._warm: deque[Held] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._topping_up = False
        self._closed = False
        self._started = 0
        self._taken = 0.0  # when a sandbox that waited was given out last

    @classmethod
    async def open(cls, adapter: Adapter, size: PoolSize, *, require_cgroups: bool = False) -> "SandboxPool":
        """Make the groups, run one program to see that it works, and start what shall wait.

        Raises:
            SandboxUnavailable: this machine forbids what is needed.
        """
        tree, groups = await asyncio.to_thread(_groups, adapter, size.places)
        if require_cgroups and adapter.overhead is not None and (tree is None or "memory" not in tree.controllers):
            if tree is not None:
                tree.close()
            raise SandboxUnavailable(
                "no control group bounds the memory of a sandbox as a whole here,"
                " and SLIPWAY_TOOLS_SANDBOX_DOWNGRADE is off"
            )
        pool = cls(adapter, tree, groups, size)
        try:
            await pool._prove()
        except BaseException:
            await pool.close()
            raise
        log.info("sandbox.ready", sandbox=pool.description)
        pool._top_up()
        return pool

    @property
    def description(self) -> str:
        """What protects: recorded with every call."""
        parts = [self.adapter.protection]
        if self.adapter.overhead is None:
            pass  # the adapter says what bounds its sandboxes
        elif self._tree is None:
            parts.append("no cgroups (downgrade: memory and CPU are bounded per process, not for all together)")
        else:
            parts.append(f"cgroup v{self._tree.version} {', '.join(self._tree.controllers)}")
        if self.adapter.downgrades:
            parts.append(f"downgrade: {'; '.join(self.adapter.downgrades)}")
        return "; ".join(parts)

    @property
    def downgraded(self) -> bool:
        """True when no control group bounds all processes of a program together."""
        if self.adapter.overhead is None:
            return False
        return self._tree is None or "memory" not in self._tree.controllers

    @contextlib.asynccontextmanager
    async def reserve(
        self, tenant: str, *, session: SessionKey | None = None, network: Network | None = None
    ) -> AsyncGenerator[Run]:
        """Wait for a sandbox and give what runs one program in it: files are fetched when there is one, not before.

        Raises:
            QueueFull, TenantLimit: too many calls wait already, or sessions are held.
            SandboxUnavailable: (running) no sandbox came up; nothing was run.
        """
        if session is not None:
            async with self._sessions.use(session, lambda: self._take(network)) as held, self._turn(tenant):

                async def run_in_session(program: Program) -> tuple[Outcome, SessionState | None]:
                    created = held.fresh
                    outcome = await _call(held.held, program, network, survive=True)
                    return outcome, SessionState(created, self._sessions.expire_time(held))

                yield run_in_session
        else:
            async with self._turn(tenant):

                async def run_alone(program: Program) -> tuple[Outcome, SessionState | None]:
                    return await self._run(program, network), None

                yield run_alone

    def end_run(self, tenant: str, run: str) -> None:
        """The run ended: so do its sessions."""
        self._sessions.end_run(tenant, run)

    async def run(self, program: Program) -> Outcome:
        """Run a program of the service's own in a sandbox; raises like `reserve`."""
        async with self.reserve("") as run:
            outcome, _ = await run(program)
            return outcome

    @contextlib.asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncGenerator[None]:
        async with self._turns.turn(tenant):
            SANDBOXES_BUSY.inc()
            try:
                yield
            finally:
                SANDBOXES_BUSY.dec()
                self._top_up()  # not before: it would take the call's processor

    async def _run(self, program: Program, network: Network | None) -> Outcome:
        held = await self._take(network)
        for pause in self.adapter.starting.again:
            try:
                return await self._run_in(held, program, network)
            except SandboxUnavailable:
                # Nothing was run: another start may do, e.g. after a neighbour took the mount point away, or when the
                # kernel was short of something (EAGAIN) while it cleared up after many others.
                await asyncio.sleep(pause)
                held = await self._start(network)
        return await self._run_in(held, program, network)

    async def _run_in(self, held: Held, program: Program, network: Network | None) -> Outcome:
        try:
            return await _call(held, program, network, survive=False)
        finally:
            self._retire(held, used=True)

    async def _take(self, network: Network | None) -> Held:
        """A sandbox that nobody has used: a warm one, a launcher, or else a new one."""
        if network is None:
            for waiting in (self._warm, self._launchers):
                while waiting:
                    held = waiting.popleft()
                    if held.box.alive:
                        self._taken = time.monotonic()
                        SANDBOXES_WARM.set(len(self._warm))
                        return held
                    self._retire(held)
        return await self._start(network)

    async def _start(self, network: Network | None) -> Held:
        place = await self._places.get()
        try:
            door = await network.open() if network is not None else None
        except BaseException:
            self._places.put_nowait(place)
            raise
        return self._launch(place, door)

    def _launch(self, place: Place, door: Doorway | None = None) -> Held:
        self._started += 1
        name = f"{place.index}-{self._started}"
        try:
            box = Box.start(self.adapter, place.group, name, egress=door.folder if door else None)
        except BaseException:
            self._places.put_nowait(place)
            if door is not None:
                door.close()
            raise
        return Held(box, place, door)

    def _retire(self, held: Held, *, used: bool = False) -> None:
        """End a sandbox. The answer does not wait for it; its place comes back when nothing is left in it."""
        self._spawn(self._end(held, used=used))

    async def _end(self, held: Held, *, used: bool) -> None:
        try:
            if used and not held.box.broken:
                await self._burst_over()  # nothing runs in it any more: answers go first
            await held.box.end()
            if held.door is not None:
                held.door.close()
            if held.place.group is not None:
                await _emptied(held.place.group)
        finally:
            self._places.put_nowait(held.place)
            self._top_up()

    async def _burst_over(self) -> None:
        """Until the answer is on its way; and, while there is room, until a burst has had what waits for it."""
        latest = time.monotonic() + _BURST_SECONDS
        await asyncio.sleep(_ANSWER_SECONDS)
        while self._warm and self._places.qsize() > self._size.slots and not self._closed:
            rest = min(self._taken + _BREATH_SECONDS, latest) - time.monotonic()
            if rest <= 0:
                return
            await asyncio.sleep(rest)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _top_up(self) -> None:
        if not self._topping_up and not self._closed:
            self._topping_up = True
            self._spawn(self._start_ahead())

    async def _start_ahead(self) -> None:
        """Have launchers and warm sandboxes wait, as many as there shall be."""
        try:
            await asyncio.sleep(_BREATH_SECONDS)
            while self._warm and (rest := self._taken + _BREATH_SECONDS - time.monotonic()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(rest)
            while len(self._launchers) < self._size.slots and not self._places.empty() and not self._closed:
                self._launchers.append(self._launch(self._places.get_nowait()))
                await asyncio.sleep(0)
            # Calls that wait come first: a sandbox made for later would take their processor.
            while len(self._warm) < self._size.warm and not self._turns.waiting and not self._closed:
                number = min(self._size.warm - len(self._warm), self.adapter.starting.at_a_time)
                coming = [held for _ in range(number) if (held := self._next_to_boot()) is not None]
                if not coming:
                    break
                await self._boot(coming)
        except SandboxUnavailable as error:
            log.warning("sandbox.not_started_ahead", reason=error.message)  # the next call says so
        finally:
            self._topping_up = False

    def _next_to_boot(self) -> Held | None:
        if self._launchers:
            return self._launchers.popleft()
        return None if self._places.empty() else self._launch(self._places.get_nowait())

    async def _boot(self, coming: list[Held]) -> None:
        """Have these wait for a program; raises what the first of them that did not come up says."""
        outcomes = await asyncio.gather(*(held.box.boot() for held in coming), return_exceptions=True)
        for held, outcome in zip(coming, outcomes, strict=True):
            if outcome is None:
                self._warm.append(held)
            else:
                self._retire(held)
        SANDBOXES_WARM.set(len(self._warm))
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _prove(self) -> None:
        outcome = await self.run(Program(b"print('sandbox')", seconds=20.0))
        if outcome.ended != "exited" or outcome.exit_status != 0 or outcome.stdout != b"sandbox\n":
            raise SandboxUnavailable(
                f"the sandbox's Python does not run: {outcome.stderr.decode(errors='replace')[-300:]}"
            )

    async def close(self) -> None:
        """End what waits and remove everything this pool made on the machine."""
        self._closed = True
        self._sessions.end_all()
        while self._topping_up:  # noqa: ASYNC110 - a moment, at the end
            await asyncio.sleep(0.01)
        for waiting in (self._launchers, self._warm):
            while waiting:
                self._retire(waiting.popleft())
        for _ in range(self._number):
            await self._places.get()
        await self.adapter.close()
        if self._tree is not None:
            await asyncio.to_thread(self._tree.close)


async def _call(held: Held, program: Program, network: Network | None, *, survive: bool) -> Outcome:
    if held.door is None or network is None:
        return await held.box.call(program, survive=survive)
    with network.serve(held.door):
        return await held.box.call(program, survive=survive)


async def _emptied(group: SlotGroup) -> None:
    """The kernel takes a moment to take the dead out of their group, and orphans wait for the machine's init."""
    pause = 0.002
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_EMPTY_SECONDS):
            while not group.empty():
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.1)
            return
    log.error("sandbox.processes_left", groups=[str(folder) for folder in group.folders])


def _groups(adapter: Adapter, places: int) -> tuple[CgroupTree | None, list[SlotGroup | None]]:
    if adapter.overhead is None:
        return None, [None] * places
    tree = CgroupTree.open()
    if tree is None:
        log.warning("sandbox.downgraded", missing="cgroups", hint="run as root, or delegate a cgroup to this user")
        return None, [None] * places
    try:
        return tree, [tree.slot(index, adapter.limits, adapter.overhead) for index in range(places)]
    except OSError as error:
        tree.close()
        log.warning("sandbox.downgraded", missing="cgroups", hint=f"a limit was refused: {error.strerror}")
        return None, [None] * places
