"""The ledger's table: one row per effect, decided upon under its lock."""

import enum
import uuid
from collections.abc import Container
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
from prometheus_client import Counter

from slipway_chassis import telemetry
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.errors import Aborted, InvalidArgument
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import domain_errors, transaction

_log = get_logger(__name__)
_in_doubt = Counter(
    "slipway_effects_in_doubt",
    "Effects whose execution died half-way, by what was done about them",
    ["decision"],
    registry=telemetry.registry,
)


class StaleEpoch(Aborted):
    """A newer epoch of the run has asked for the effect: the caller has lost its lease."""

    reason = "STALE_EPOCH"


class EffectKeyReused(InvalidArgument):
    """The effect key was used for something else."""

    reason = "EFFECT_KEY_REUSED"


class State(enum.StrEnum):
    """Of an effect."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    UNCERTAIN = "UNCERTAIN"


class Verdict(enum.Enum):
    """What a caller of an effect is to do."""

    RUN = enum.auto()
    ANSWER = enum.auto()
    ERROR = enum.auto()
    OURS = enum.auto()
    THEIRS = enum.auto()
    IN_DOUBT = enum.auto()


@dataclass(frozen=True)
class Request:
    """A caller's wish, and the execution that would fulfil it."""

    tenant: str
    subject: str
    key: str
    epoch: int
    attempt: int
    fingerprint: bytes
    execution: uuid.UUID


@dataclass(frozen=True)
class Row:
    """What is known of an effect. ``dead``: its owner has given no sign of life for too long."""

    subject: str
    fingerprint: bytes
    epoch: int
    attempt: int
    state: State
    execution: uuid.UUID
    owner: uuid.UUID
    dead: bool
    outcome: bytes | None


@dataclass(frozen=True)
class Begin:
    """The verdict; the outcome for ANSWER and ERROR, the execution to join for OURS."""

    verdict: Verdict
    outcome: bytes = b""
    execution: uuid.UUID | None = None


def decide(
    row: Row,
    request: Request,
    *,
    owner: uuid.UUID,
    alive: Container[uuid.UUID],
    never_started: Container[uuid.UUID],
) -> Verdict:
    """What the request is to do, given the row. Raises EffectKeyReused or StaleEpoch."""
    if row.fingerprint != request.fingerprint:
        raise EffectKeyReused("the effect key was used before for something else", field="effect.key")
    if request.epoch < row.epoch:
        raise StaleEpoch(
            f"epoch {request.epoch} is older than {row.epoch}",
            metadata={"effect_key": request.key, "epoch": str(row.epoch)},
        )
    match row.state:
        case State.DONE:
            return Verdict.ANSWER
        case State.FAILED | State.UNCERTAIN:
            return Verdict.RUN if request.attempt > row.attempt else Verdict.ERROR
        case State.RUNNING:
            if row.owner == owner:
                if row.execution in alive:
                    return Verdict.OURS
                return Verdict.RUN if row.execution in never_started else Verdict.IN_DOUBT
            return Verdict.IN_DOUBT if row.dead else Verdict.THEIRS


_INSERT = """
INSERT INTO effect (tenant, key, subject, fingerprint, epoch, attempt, state, execution, owner)
VALUES ($1, $2, $3, $4, $5, $6, 'RUNNING', $7, $8)
ON CONFLICT (tenant, key) DO NOTHING RETURNING true
"""
# After a restart of the database nobody could give a sign of life before; that is no sign of death.
_LOCK = """
SELECT subject, fingerprint, epoch, attempt, state, execution, owner, outcome,
    heartbeat = '-infinity' OR (heartbeat < now() - $3::interval
        AND pg_postmaster_start_time() < now() - $3::interval) AS dead
FROM effect WHERE tenant = $1 AND key = $2 FOR UPDATE
"""
_RAISE = "UPDATE effect SET epoch = $3, attempt = $4 WHERE tenant = $1 AND key = $2"
_TAKE_OVER = """
UPDATE effect SET subject = $3, epoch = $4, attempt = $5, state = 'RUNNING', execution = $6, owner = $7,
    heartbeat = now(), outcome = NULL
WHERE tenant = $1 AND key = $2
"""
_GIVE_UP = """
UPDATE effect SET epoch = $3, attempt = $4, state = 'UNCERTAIN', outcome = $5 WHERE tenant = $1 AND key = $2
"""
# No condition on the state: the same execution may write its outcome again when the first answer was lost, and the
# outcome of one that had been given up as uncertain is the truth.
_FINISH = """
UPDATE effect SET state = $4, outcome = $5 WHERE tenant = $1 AND key = $2 AND execution = $3 RETURNING true
"""


class EffectStore:
    """Reads and writes the ledger for one process, ``owner``. All methods raise StoreUnavailable."""

    def __init__(self, pool: asyncpg.Pool, keys: SubjectKeys | None, *, owner: uuid.UUID, dead_after: float) -> None:
        self._pool = pool
        self._keys = keys
        self._owner = owner
        self._dead_after = dead_after

    async def begin(
        self,
        request: Request,
        *,
        alive: Container[uuid.UUID],
        never_started: Container[uuid.UUID],
        repeat: bool,
        uncertain: bytes,
    ) -> Begin:
        """Claim the effect for the request's execution, or say what else to do.

        An effect in doubt is claimed again if ``repeat``, else it is recorded with the outcome ``uncertain``.
        """
        with domain_errors():
            inserted = await self._pool.fetchval(
                _INSERT,
                request.tenant,
                request.key,
                request.subject,
                request.fingerprint,
                request.epoch,
                request.attempt,
                request.execution,
                self._owner,
            )
        if inserted:
            return Begin(Verdict.RUN)
        async with transaction(self._pool) as conn:
            row = await self._lock(conn, request)
            if row is None:
                # Pruned in between: nothing is known any more, so ask again.
                return Begin(Verdict.THEIRS)
            verdict = decide(row, request, owner=self._owner, alive=alive, never_started=never_started)
            if verdict is Verdict.IN_DOUBT:
                _in_doubt.labels("repeat" if repeat else "uncertain").inc()
                _log.warning("effect.in_doubt", effect_key=request.key, repeated=repeat)
            if verdict is Verdict.IN_DOUBT and repeat:
                verdict = Verdict.RUN
            attempt = max(row.attempt, request.attempt)
            if verdict is Verdict.RUN:
                await conn.execute(
                    _TAKE_OVER,
                    request.tenant,
                    request.key,
                    request.subject,
                    request.epoch,
                    attempt,
                    request.execution,
                    self._owner,
                )
                return Begin(Verdict.RUN)
            if verdict is Verdict.IN_DOUBT:
                sealed = await self._seal(conn, request.tenant, row.subject, uncertain)
                await conn.execute(_GIVE_UP, request.tenant, request.key, request.epoch, attempt, sealed)
                return Begin(Verdict.ERROR, uncertain)
            running = row.state is State.RUNNING
            if request.epoch > row.epoch or (running and attempt > row.attempt):
                await conn.execute(
                    _RAISE, request.tenant, request.key, request.epoch, attempt if running else row.attempt
                )
            outcome = await self._open(conn, request.tenant, row.subject, row.outcome or b"")
            return Begin(verdict, outcome, row.execution)

    async def finish(
        self, tenant: str, subject: str, key: str, execution: uuid.UUID, state: State, outcome: bytes
    ) -> bool:
        """Record the outcome; False if another execution has taken over, and nothing was written."""
        with domain_errors():
            sealed = await self._seal(self._pool, tenant, subject, outcome)
            return await self._pool.fetchval(_FINISH, tenant, key, execution, state.value, sealed) is not None

    async def release(self, tenant: str, key: str, execution: uuid.UUID) -> None:
        """Say that the execution died, so that nobody waits for its heartbeat to grow old."""
        with domain_errors():
            await self._pool.execute(
                "UPDATE effect SET heartbeat = '-infinity'"
                " WHERE tenant = $1 AND key = $2 AND execution = $3 AND state = 'RUNNING'",
                tenant,
                key,
                execution,
            )

    async def beat(self, executions: list[uuid.UUID]) -> None:
        """Give a sign of life for the executions."""
        with domain_errors():
            await self._pool.execute(
                "UPDATE effect SET heartbeat = now() WHERE owner = $1 AND state = 'RUNNING' AND execution = ANY($2)",
                self._owner,
                executions,
            )

    async def _lock(self, conn: Any, request: Request) -> Row | None:
        row = await conn.fetchrow(_LOCK, request.tenant, request.key, timedelta(seconds=self._dead_after))
        if row is None:
            return None
        return Row(
            subject=row["subject"],
            fingerprint=row["fingerprint"],
            epoch=row["epoch"],
            attempt=row["attempt"],
            state=State(row["state"]),
            execution=row["execution"],
            owner=row["owner"],
            dead=row["dead"],
            outcome=row["outcome"],
        )

    async def _seal(self, conn: Any, tenant: str, subject: str, outcome: bytes) -> bytes:
        return await self._keys.encrypt(conn, tenant, subject, outcome) if self._keys else outcome

    async def _open(self, conn: Any, tenant: str, subject: str, outcome: bytes) -> bytes:
        return await self._keys.decrypt(conn, tenant, subject, outcome) if self._keys and outcome else outcome
