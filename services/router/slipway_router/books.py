"""The books: every attempt reserves its worst case before it is sent, every call is written once when it has ended.

PostgreSQL is the system of record for both. A reservation is committed before a byte leaves for the provider, so a call
that a provider answered is on the bill whoever dies afterwards: the orphan is billed with its worst case (orphans.py).
An answer therefore need not wait for its own row; only a call with an effect does, for its run refers to its record.

Reservations and closed accounts are committed in groups, one statement each however many calls there are.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol
from uuid import UUID

from slipway_chassis.errors import Aborted, Unavailable
from slipway_chassis.evidence import Evidence, SealedEvent
from slipway_chassis.logs import get_logger
from slipway_chassis.telemetry import current_trace_id

from slipway_router import metrics
from slipway_router.budgets import Payers, exhausted
from slipway_router.call_record import CallRecord
from slipway_router.catalogue import Model
from slipway_router.chat import Record
from slipway_router.eligibility import input_most, most_cost, output_most
from slipway_router.evidence_data import MODEL_CALL, event_data
from slipway_router.group_commit import GroupCommit
from slipway_router.holds import Hold

_log = get_logger(__name__)
_RESERVE_PATIENCE = 5.0
"""Seconds for which a call waits for a database that is restarted."""
_SETTLE_PATIENCE = 300.0
"""Seconds for which a closed account is kept and written again; then it is an orphan's."""
_GATHER = 0.02
"""Seconds for which closed accounts are gathered. Their reservations stand meanwhile."""
_GRACE = 60.0
"""Seconds after the deadline of an attempt at which its reservation expires whoever made it."""

Refusal = Mapping[str, str | None]
Question = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Reservation:
    """An attempt that wants to be sent, and the earlier attempts of its call that have ended."""

    record: CallRecord
    payers: Payers
    hold: Hold
    dispatched: bool
    seconds: float
    input_most: int
    output_most: int
    """Tokens that the worst case stands for."""
    ended: tuple[tuple[UUID, Decimal], ...]


@dataclass(frozen=True, slots=True)
class ClosedAccount:
    """A call that has ended: its row, its event, and what its attempts cost."""

    record: CallRecord
    payers: Payers
    event: SealedEvent


@dataclass(frozen=True, slots=True)
class Written:
    """The audit record of a call, and the commit that makes it last."""

    record: Record
    committed: "asyncio.Future[None]"


class BooksStore(Protocol):
    """Where the books are kept. All of it is idempotent: a commit whose answer was lost is made again."""

    async def reserve(self, reservations: Sequence[Reservation]) -> Sequence[Refusal | None]: ...
    async def dispatch(self, hold_id: UUID) -> bool: ...
    async def settle(self, accounts: Sequence[ClosedAccount]) -> Sequence[None]: ...


class ReservationLost(Unavailable):
    """The reservation expired before the attempt was sent: this process was frozen."""

    reason = "RESERVATION_LOST"


class Books:
    """Reserves, settles, and writes calls down."""

    def __init__(self, store: BooksStore, evidence: Evidence) -> None:
        self._store = store
        self._evidence = evidence
        self._reserving: GroupCommit[Reservation, Refusal | None] = GroupCommit(self._reserve)
        self._settling: GroupCommit[ClosedAccount, None] = GroupCommit(self._settle, linger=_GATHER)

    async def reserve(self, record: CallRecord, model: Model, seconds: float, *, dispatched: bool = True) -> Hold:
        """Reserve the worst case of an attempt at `model` that takes `seconds` at most; durable when it returns.

        With `dispatched` False the attempt has something to wait for before it is sent: `dispatch` then says when.
        Until then nothing is owed if this process dies. Raises BudgetExhausted, StoreUnavailable.
        """
        assert record.plan is not None  # noqa: S101 - there is no attempt without a plan
        demand = record.plan.demand
        hold = Hold(model, most_cost(model, demand))
        over = [other for other in record.holds if other.ended and not other.passed_on]
        reservation = Reservation(
            record,
            Payers.of(record.caller, record.root_run_id),
            hold,
            dispatched,
            seconds + _GRACE,
            input_most(model, demand),
            output_most(model, demand),
            tuple((other.hold_id, other.cost) for other in over),
        )
        made = self._reserving.submit(reservation)
        try:
            refusal = await asyncio.shield(made)
            if refusal is not None and not self._settling.is_idle:
                # What calls that have ended no longer need may be enough.
                await self.flush()
                made = self._reserving.submit(reservation)
                refusal = await asyncio.shield(made)
        except asyncio.CancelledError:
            hold.reserving, hold.ended = made, True
            record.holds.append(hold)
            raise
        for other in over:
            other.passed_on = True
        if refusal is not None:
            metrics.budget_refusals.labels(refusal["scope"] or "").inc()
            raise exhausted(refusal, hold.worst)
        record.holds.append(hold)
        return hold

    async def dispatch(self, hold: Hold) -> None:
        """The attempt is sent now. Raises ReservationLost, StoreUnavailable."""
        if not await self._store.dispatch(hold.hold_id):
            raise ReservationLost("the reservation expired before the call was sent", retry_after=1)

    async def settle(self, record: CallRecord, question: Question) -> Written:
        """Write a call that has ended, with its audit event; what its attempts did not use is free again.

        Seals the event and hands it over; `committed` is done when it is durable.
        """
        for hold in record.holds:
            if hold.reserving is not None:
                await asyncio.wait([hold.reserving])
        caller, candidate = record.caller, record.candidate
        sealed = self._evidence.seal(
            MODEL_CALL,
            caller=caller,
            subject=caller.subject,
            resource=f"model/{candidate.model.name}" if candidate else f"model/{record.requested_model or record.task}",
            data=event_data(record, question),
            time=record.end_time,
            run_id=record.run_id or None,
            policy=candidate.policy if candidate else None,
            trace_id=current_trace_id(),
        )
        account = ClosedAccount(record, Payers.of(caller, record.root_run_id), sealed)
        urgent = record.effect is not None
        return Written(Record(sealed.event_id, sealed.commitment), self._settling.submit(account, urgent=urgent))

    async def flush(self) -> None:
        """Wait until all calls that have ended here are written: whoever reads usage sees their own calls."""
        await self._settling.drain()

    async def _reserve(self, reservations: Sequence[Reservation]) -> Sequence[Refusal | None]:
        give_up = time.monotonic() + _RESERVE_PATIENCE
        while True:
            try:
                return await self._store.reserve(reservations)
            except (Unavailable, Aborted):
                # Away, or lost against a concurrent change of a budget.
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.2)

    async def _settle(self, accounts: Sequence[ClosedAccount]) -> Sequence[None]:
        give_up = time.monotonic() + _SETTLE_PATIENCE
        pause = 0.1
        while True:
            try:
                return await self._store.settle(accounts)
            except (Unavailable, Aborted) as error:
                if time.monotonic() > give_up:
                    _log.error("books.accounts_dropped", calls=len(accounts), cause=type(error.__cause__).__name__)
                    raise
                _log.warning("books.accounts_wait", calls=len(accounts), cause=type(error.__cause__).__name__)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 1.0)
