"""The effect ledger: an effect that a run asks for happens once, whoever asks, how often, and whoever dies.

A run hands down a key that stays the same over all attempts, the epoch of its lease, and the number of the attempt that
its journal declares. The ledger keeps key, epoch and outcome:

- an epoch older than the highest seen is a zombie's: StaleEpoch;
- a recorded success is the answer, whatever the attempt;
- a recorded failure is raised again for the same attempt; a higher attempt runs the action again;
- an execution under way in this process is joined; one in another process is waited for;
- an execution whose process died is *in doubt*: it is repeated, or declared uncertain for a person to decide.

Executions run in tasks of their own: a caller that is killed or gives up does not take the outcome with it. The outcome
is written only by the execution that the row names, so one that was taken over can no longer write.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import asyncpg
from google.rpc.status_pb2 import Status

from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.effect_store import Begin, EffectStore, Request, StaleEpoch, State, Verdict
from slipway_chassis.errors import Aborted, Internal, SlipwayError, Unavailable
from slipway_chassis.grpc_errors import from_status, to_status
from slipway_chassis.logs import get_logger
from slipway_chassis.telemetry import current_trace_id

_log = get_logger(__name__)
_POLL_FIRST, _POLL_MOST = 0.05, 1.0  # seconds between looks at another process's execution
_WRITE_FOR = 300.0  # seconds for which an outcome is kept and written again while the database is away
_NEVER_STARTED = 10_000

InDoubt = Literal["repeat", "uncertain"]
Action = Callable[[], Awaitable[bytes]]


class EffectUncertain(Aborted):
    """Nobody can tell whether the effect happened, and its target cannot be asked. An action may raise it, too."""

    reason = "EFFECT_UNCERTAIN"


class EffectCancelled(Aborted):
    """The run that asked for the effect stopped it half-way."""

    reason = "EFFECT_CANCELLED"


class EffectKeyLike(Protocol):
    """An effect key: the dataclass below, or ``slipway.effects.v1.EffectKey``."""

    @property
    def key(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def attempt(self) -> int: ...


@dataclass(frozen=True)
class EffectKey:
    """One effect of one run: stable key, epoch of the asker's lease, number of the attempt (from 1)."""

    key: str
    epoch: int
    attempt: int = 1


@dataclass
class _Execution:
    """An execution of this process, from before its row is claimed until its outcome is settled."""

    id: uuid.UUID
    settled: "asyncio.Future[bytes]"
    cancelled: bool = False
    """The run itself stopped it."""
    acting: bool = True
    """What it does has not ended yet; afterwards it is too late to stop it."""


class EffectLedger:
    """Performs effects once. One per process and database."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        keys: SubjectKeys | None = None,
        *,
        heartbeat: float = 2.0,
        dead_after: float = 10.0,
    ) -> None:
        """``keys`` encrypts answers at rest. An execution gives a sign of life every ``heartbeat`` seconds; after
        ``dead_after`` seconds without one, its process is taken for dead."""
        self._store = EffectStore(pool, keys, owner=uuid.uuid4(), dead_after=dead_after)
        self._heartbeat_every = heartbeat
        self._executions: dict[uuid.UUID, _Execution] = {}
        self._never_started: dict[uuid.UUID, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._by_key: dict[tuple[str, str], tuple[int, _Execution, asyncio.Task[None]]] = {}
        """Executions of this process, with their epoch, by tenant and key."""
        self._heartbeat: asyncio.Task[None] | None = None

    async def perform(
        self, caller: Caller, effect: EffectKeyLike | None, fingerprint: bytes, action: Action, *, in_doubt: InDoubt
    ) -> bytes:
        """The answer of ``action``, performed once for the effect's key in the caller's tenant.

        Without an effect (None, or an empty key) the action just runs. ``fingerprint`` is a digest of what is asked
        for. ``in_doubt`` says what to do when an execution died half-way: repeat it (its target honours the key, or
        doing it twice does no harm), or raise EffectUncertain.

        Raises StaleEpoch, EffectKeyReused, EffectUncertain, and whatever the action raises or raised.
        """
        if effect is None or not effect.key:
            return await action()
        poll = _POLL_FIRST
        while True:
            execution = _Execution(uuid.uuid4(), asyncio.get_running_loop().create_future())
            # Known here before its row can be seen, so that whoever sees the row finds the execution.
            self._executions[execution.id] = execution
            try:
                begun = await self._begin(caller, effect, fingerprint, execution.id, in_doubt)
            except BaseException:
                del self._executions[execution.id]
                self._note_never_started(execution.id)
                raise
            if begun.verdict is not Verdict.RUN:
                del self._executions[execution.id]
            match begun.verdict:
                case Verdict.RUN:
                    self._start(caller, effect, execution, action)
                    return await asyncio.shield(execution.settled)
                case Verdict.ANSWER:
                    return begun.outcome
                case Verdict.ERROR:
                    raise _recorded(begun.outcome)
                case Verdict.OURS:
                    running = self._executions.get(begun.execution) if begun.execution else None
                    if running is not None:
                        return await asyncio.shield(running.settled)
                    # It ended since: the row tells more now.
                case _:
                    await asyncio.sleep(poll)
                    poll = min(poll * 2, _POLL_MOST)

    def _note_never_started(self, execution: uuid.UUID) -> None:
        # The claim may have committed although its answer was lost (or its caller cancelled): then the row names an
        # execution of which this process knows that it never began, so that nothing is in doubt.
        self._never_started[execution] = None
        while len(self._never_started) > _NEVER_STARTED:
            del self._never_started[next(iter(self._never_started))]

    def cancel(self, tenant: str, effect: EffectKeyLike) -> bool:
        """Stop an execution of this process; its outcome is EffectCancelled. False: there is none, or a newer one."""
        epoch, execution, task = self._by_key.get((tenant, effect.key), (0, None, None))
        if execution is None or task is None or epoch > effect.epoch or not execution.acting:
            return False
        execution.cancelled = True
        task.cancel()
        return True

    async def drain(self, grace: float) -> None:
        """Let executions end for ``grace`` seconds, then cancel them; their effects are in doubt then. At shutdown."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    async def _begin(
        self, caller: Caller, effect: EffectKeyLike, fingerprint: bytes, execution: uuid.UUID, in_doubt: InDoubt
    ) -> Begin:
        request = Request(
            caller.tenant, caller.subject, effect.key, effect.epoch, effect.attempt, fingerprint, execution
        )
        unknown = EffectUncertain("whether the effect happened is not known", metadata={"effect_key": effect.key})
        return await self._store.begin(
            request,
            alive=self._executions,
            never_started=self._never_started,
            repeat=in_doubt == "repeat",
            uncertain=_as_bytes(unknown),
        )

    def _start(self, caller: Caller, effect: EffectKeyLike, execution: _Execution, action: Action) -> None:
        task = asyncio.create_task(self._execute(caller, effect.key, execution, action))
        self._tasks.add(task)
        self._by_key[(caller.tenant, effect.key)] = (effect.epoch, execution, task)
        task.add_done_callback(lambda done: self._ended(done, caller.tenant, effect.key, execution))
        if self._heartbeat is None or self._heartbeat.done():
            self._heartbeat = asyncio.create_task(self._beat())

    def _ended(self, task: asyncio.Task[None], tenant: str, key: str, execution: _Execution) -> None:
        self._tasks.discard(task)
        if self._by_key.get((tenant, key), (0, None, None))[1] is execution:
            del self._by_key[(tenant, key)]
        if execution.id in self._executions:
            # Cancelled before its first line ran.
            self._settle(execution, Unavailable("the service stopped before the effect began"))

    async def _execute(self, caller: Caller, key: str, execution: _Execution, action: Action) -> None:
        """Run the action, write its outcome, then tell whoever waits. Never raises: the future holds the result."""
        failure: Exception | None = None
        answer = b""
        try:
            answer = await action()
        except asyncio.CancelledError:
            if not execution.cancelled:
                self._settle(execution, Unavailable("the service stopped before the effect was done"))
                await self._release(caller.tenant, key, execution.id)
                raise
            failure = EffectCancelled("the run stopped it", metadata={"effect_key": key})
        except Exception as error:  # noqa: BLE001 - any failure is an outcome, to be recorded and raised to the callers
            failure = error
        execution.acting = False
        try:
            await self._write(caller, key, execution.id, answer, failure)
        except SlipwayError as error:
            failure = error
        self._settle(execution, answer if failure is None else failure)

    def _settle(self, execution: _Execution, result: bytes | Exception) -> None:
        del self._executions[execution.id]
        if isinstance(result, Exception):
            execution.settled.set_exception(result)
            # All callers may be gone by now; that the outcome is recorded is enough.
            execution.settled.exception()
        else:
            execution.settled.set_result(result)

    async def _write(
        self, caller: Caller, key: str, execution: uuid.UUID, answer: bytes, failure: Exception | None
    ) -> None:
        """Record the outcome. The effect has happened: while the database is away, the write is tried again."""
        if failure is None:
            state, outcome = State.DONE, answer
        else:
            state = State.UNCERTAIN if isinstance(failure, EffectUncertain) else State.FAILED
            outcome = _as_bytes(failure)
        give_up = time.monotonic() + _WRITE_FOR
        pause = 0.1
        while True:
            try:
                if not await self._store.finish(caller.tenant, caller.subject, key, execution, state, outcome):
                    raise StaleEpoch("another execution of the effect took over", metadata={"effect_key": key})
            except Unavailable as error:
                if time.monotonic() > give_up:
                    raise
                _log.warning("effect.outcome_waits", effect_key=key, cause=type(error.__cause__).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                return

    async def _release(self, tenant: str, key: str, execution: uuid.UUID) -> None:
        try:
            await self._store.release(tenant, key, execution)
        except Unavailable:
            # Without it the others wait until the heartbeat is too old.
            _log.warning("effect.not_released", effect_key=key)

    async def _beat(self) -> None:
        while self._executions:
            await asyncio.sleep(self._heartbeat_every)
            try:
                await self._store.beat(list(self._executions))
            except Unavailable as error:
                _log.warning("effect.no_heartbeat", cause=type(error.__cause__).__name__)


def _as_bytes(error: Exception) -> bytes:
    return to_status(error, current_trace_id()).SerializeToString()


def _recorded(outcome: bytes) -> SlipwayError:
    error = from_status(Status.FromString(outcome))
    if error is None:
        return Internal("the record of an effect is damaged")
    if error.reason == EffectUncertain.reason:
        return EffectUncertain(error.message, metadata=error.metadata)
    return error
