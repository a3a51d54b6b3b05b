"""Commits of several runs in one round trip and one flush, each under its own fence."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import asyncpg
from slipway_chassis.errors import SlipwayError, Unavailable
from slipway_chassis.outbox import Outbox
from slipway_chassis.postgres import connection

from slipway_orchestrator.runs import TERMINAL_STATES
from slipway_orchestrator.store.journal import Written

_COMMIT = f"SELECT place, asked FROM commit_runs({', '.join(f'${n}' for n in range(1, 30))})"  # noqa: S608 - numbers
_RUNS, _EVENTS = 13, 12
_MOST_BYTES = 4 << 20
"""Of events in one transaction, unless one run alone has more."""


class LeaseLost(Exception):
    """Another worker holds the run by now: nothing was written."""


@dataclass(frozen=True, slots=True)
class RunCommit:
    """What one transaction changes in one run."""

    run_id: str
    epoch: int
    written: Written
    steps: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    state: str = ""
    """In which the run is left: parked or ended; empty: its worker goes on."""
    until: datetime | None = None
    output: bytes | None = None
    """Sealed."""
    error: str | None = None
    consumed: Sequence[int] = ()

    @property
    def ends(self) -> bool:
        """Whether it is the run's last one."""
        return self.state in TERMINAL_STATES

    @property
    def size(self) -> int:
        """Bytes of its events, about."""
        return sum(len(row[5]) + len(row[10]) for row in self.written.rows)


@dataclass(slots=True)
class _Waiting:
    commit: RunCommit
    asked: bool | None = None
    """None: not written."""
    alone: bool = False
    """Left out of what was written together: to be tried by itself."""
    error: BaseException | None = field(default=None)

    @property
    def settled(self) -> bool:
        return self.asked is not None or self.alone or self.error is not None


class Committer:
    """Writes the commits of one worker. What comes while one transaction is under way goes together into the next."""

    def __init__(self, pool: asyncpg.Pool, outbox: Outbox, *, owner: str, seconds: float) -> None:
        """`owner` holds the leases, and a commit prolongs them to `seconds` from now."""
        self._pool = pool
        self._outbox = outbox
        self._owner = owner
        self._seconds = seconds
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()

    async def commit(self, commit: RunCommit) -> bool:
        """True: the run's inbox has something. Raises LeaseLost, or Unavailable: nobody knows whether it was written.

        A run that is locked, or whose data the database refuses, holds up and fails none but itself.
        """
        waiting = _Waiting(commit)
        self._waiting.append(waiting)
        async with self._turn:
            if not waiting.settled:
                await self._write_together()
        if waiting.error is not None:
            raise waiting.error
        if waiting.alone:
            async with connection(self._pool) as conn:
                asked = await self.write(conn, commit)
                await self._outbox.committed(conn)
            return asked
        return bool(waiting.asked)

    async def write(self, conn: Any, commit: RunCommit) -> bool:
        """The same in the transaction of `conn`. Raises LeaseLost."""
        rows = await conn.fetch(_COMMIT, self._owner, self._seconds, True, *_columns([commit]))
        if not rows:
            raise LeaseLost
        return rows[0]["asked"]

    async def _write_together(self) -> None:
        batch = self._take()
        try:
            columns = _columns([waiting.commit for waiting in batch])
            async with connection(self._pool) as conn:
                rows = await conn.fetch(_COMMIT, self._owner, self._seconds, False, *columns)
                await self._outbox.committed(conn)
        except Unavailable as error:
            for waiting in batch:
                waiting.error = error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, SlipwayError, ValueError):  # one of them does not fit
            for waiting in batch:
                waiting.alone = True
        except BaseException:
            for waiting in batch:
                waiting.error = Unavailable("the worker was stopped in the middle of a commit")
            raise
        else:
            for row in rows:
                batch[row["place"] - 1].asked = row["asked"]
            for waiting in batch:
                waiting.alone = waiting.asked is None

    def _take(self) -> list[_Waiting]:
        size = count = 0
        while count < len(self._waiting) and (count == 0 or size < _MOST_BYTES):
            size += self._waiting[count].commit.size
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch


def _columns(commits: Sequence[RunCommit]) -> list[list[Any]]:
    """The arguments of `commit_runs` after the first three: a list for each column."""
    runs = [
        (
            commit.run_id,
            commit.epoch,
            commit.written.head.seq,
            commit.written.head.commitment,
            commit.written.version,
            commit.steps,
            commit.input_tokens,
            commit.output_tokens,
            commit.cost_usd,
            commit.state,
            commit.until,
            commit.output,
            commit.error,
        )
        for commit in commits
    ]
    events = [(place, *row) for place, commit in enumerate(commits, 1) for row in commit.written.rows]
    return [
        *_transposed(runs, _RUNS),
        [item for commit in commits for item in commit.consumed],
        *_transposed(events, _EVENTS),
    ]


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
