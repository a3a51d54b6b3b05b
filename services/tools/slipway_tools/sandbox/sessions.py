"""Sessions: sandboxes that live across calls of one run, each of one owner, until nobody has used them for a while."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from slipway_tools.sandbox.held import Held
from slipway_tools.sandbox.metrics import SANDBOX_SESSIONS
from slipway_tools.sandbox.turns import TenantLimit

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SessionKey:
    """Whose session it is: nobody with another tenant, subject or run can name it."""

    tenant: str
    subject: str
    run: str
    name: str


@dataclass(frozen=True)
class SessionLimits:
    """How many sessions there may be, of all and of one tenant; seconds without a call, and in all, until they end."""

    most: int
    per_tenant: int
    idle: float
    lifetime: float


@dataclass
class Session:
    """A live session. `fresh` until its first call is over; `over`: its run ended, and it ends with its last call."""

    held: Held
    born: float
    fresh: bool = True
    over: bool = False
    used: float = 0.0
    users: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    timer: asyncio.TimerHandle | None = None

    def expires(self, limits: SessionLimits) -> float:
        """On the monotonic clock."""
        return min(self.used + limits.idle, self.born + limits.lifetime)


class Sessions:
    """The sessions of this process. `retire` takes the sandbox of an ended one away."""

    def __init__(self, limits: SessionLimits, retire: Callable[[Held], None]) -> None:
        self.limits = limits
        self._retire = retire
        self._open: dict[SessionKey, Session] = {}
        self._opening: dict[SessionKey, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def use(self, key: SessionKey, start: Callable[[], Awaitable[Held]]) -> AsyncGenerator[Session]:
        """Give the session `key`, begun with `start` if there is none; its calls come one after the other.

        Raises:
            TenantLimit: the tenant, or this process, has as many as it may.
        """
        async with self._opening.setdefault(key, asyncio.Lock()) as _:
            session = self._open.get(key)
            if session is None:
                self._refuse_more(key)
                session = self._open[key] = await self._begin(start)
                SANDBOX_SESSIONS.set(len(self._open))
            session.users += 1
            if session.timer is not None:
                session.timer.cancel()
                session.timer = None
        if not self._opening[key].locked():
            self._opening.pop(key, None)
        try:
            async with session.lock:
                yield session
        finally:
            session.fresh = False
            session.users -= 1
            session.used = time.monotonic()
            if not session.held.box.alive:
                self._end(key, session, "lost")
            elif session.over and not session.users:
                self._end(key, session, "run ended")
            elif not session.users:
                self._wait_for_expiry(key, session)

    def expire_time(self, session: Session) -> datetime:
        """When the session ends if this is its last call."""
        session.used = time.monotonic()
        return datetime.now(UTC) + timedelta(seconds=session.expires(self.limits) - session.used)

    def end_run(self, tenant: str, run: str) -> None:
        """End the sessions of a run that ended, those that are in use with their last call."""
        for key, session in list(self._open.items()):
            if (key.tenant, key.run) == (tenant, run):
                session.over = True
                if not session.users:
                    self._end(key, session, "run ended")

    def end_all(self) -> None:
        """End every session."""
        for key, session in list(self._open.items()):
            self._end(key, session, "closing")

    async def _begin(self, start: Callable[[], Awaitable[Held]]) -> Session:
        held = await start()
        now = time.monotonic()
        return Session(held, now, used=now)

    def _refuse_more(self, key: SessionKey) -> None:
        own = sum(other.tenant == key.tenant for other in self._open)
        for number, most, limit, setting in (
            (own, self.limits.per_tenant, "tenant_sessions", "SANDBOX_TENANT_SESSIONS"),
            (len(self._open), self.limits.most, "sessions", "SANDBOX_SESSIONS"),
        ):
            if number >= most:
                raise TenantLimit(
                    f"there are {number} sandbox sessions, which is the limit {limit} (SLIPWAY_TOOLS_{setting})",
                    metadata={"limit": limit, "value": str(most)},
                    retry_after=30,
                )

    def _wait_for_expiry(self, key: SessionKey, session: Session) -> None:
        delay = max(session.expires(self.limits) - time.monotonic(), 0)
        session.timer = asyncio.get_running_loop().call_later(delay, self._end, key, session, "expired")

    def _end(self, key: SessionKey, session: Session, why: str) -> None:
        if self._open.get(key) is session:
            del self._open[key]
            SANDBOX_SESSIONS.set(len(self._open))
            if session.timer is not None:
                session.timer.cancel()
            log.info("sandbox.session_ended", tenant=key.tenant, run=key.run, session=key.name, why=why)
            self._retire(session.held)
