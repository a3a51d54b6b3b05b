"""Starting the runs of schedules: every worker looks, and the schedule's row lets one of them do it.

The grant of a run is asked for before the row is locked: identity looks at the owner, at the roles and at revocations
again. Whoever then finds the row as it was read starts the run and moves the schedule on, in one transaction.
"""

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.errors import ErrorKind, SlipwayError, Unavailable
from slipway_chassis.evidence import Evidence
from slipway_chassis.ids import new_id
from slipway_chassis.logs import get_logger
from slipway_chassis.telemetry import span

from slipway_orchestrator.cron import Cron, ScheduleInvalid
from slipway_orchestrator.launching import Launcher, StartRequest, check_request
from slipway_orchestrator.once import Transaction
from slipway_orchestrator.recording import record
from slipway_orchestrator.schedules import Firing, Schedule
from slipway_orchestrator.store.runs import RunStore
from slipway_orchestrator.store.schedules import ScheduleStore
from slipway_orchestrator.worker.grants import RunTokens, ScheduledGrant
from slipway_orchestrator.worker.metrics import FIRED, FIRED_LATE

_log = get_logger(__name__)
_BATCH = 50
_AGAIN = timedelta(seconds=10)
"""Until a schedule is looked at again whose grant could not be had."""
_RENEW_AFTER = timedelta(days=7)
_RENEW_EVERY = 3600.0
"""Seconds between looks at old grants."""
_LOOK_AT_QUEUE = timedelta(seconds=5)
_ENDS = frozenset({"GRANT_INVALID", "GRANT_REVOKED", "SUBJECT_DISABLED"})
"""What identity says when nothing will ever act in the owner's name again."""


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule whose time has come."""

    schedule: Schedule
    cron: Cron
    time: datetime
    """The newest due time that has come."""
    from_queue: bool
    """It waited for the runs before it."""
    late: bool
    """Too late to be made up for."""


class Scheduler:
    """Starts what is due, until cancelled."""

    def __init__(
        self,
        transaction: Transaction,
        schedules: ScheduleStore,
        runs: RunStore,
        launcher: Launcher,
        tokens: RunTokens,
        evidence: Evidence,
        *,
        look_seconds: float,
    ) -> None:
        """`look_seconds`: between looks at what was put meanwhile."""
        self._transaction = transaction
        self._schedules = schedules
        self._runs = runs
        self._launcher = launcher
        self._tokens = tokens
        self._evidence = evidence
        self._look_seconds = look_seconds

    async def run(self) -> None:
        """Fire what is due whenever it is, until cancelled."""
        while True:
            wait = self._look_seconds
            try:
                wait = min(wait, await self._fire_due())
            except Unavailable as error:
                _log.warning("schedules.no_database", reason=error.reason)
            # Not all workers at once.
            await asyncio.sleep(max(wait, 0.0) + random.uniform(0.0, 0.1))  # noqa: S311

    async def renew(self) -> None:
        """Have grants signed anew before the keys that signed them are gone, until cancelled."""
        while True:
            try:
                async with self._transaction() as conn:
                    old = await self._schedules.with_old_grants(conn, _RENEW_AFTER, _BATCH)
                for schedule in old:
                    await self._renew(schedule)
            except Unavailable as error:
                _log.warning("schedules.not_renewed", reason=error.reason)
                old = []
            await asyncio.sleep(0 if len(old) == _BATCH else _RENEW_EVERY * random.uniform(0.5, 1.0))  # noqa: S311

    async def _renew(self, schedule: Schedule) -> None:
        key = schedule.key
        try:
            grant = await self._tokens.scheduled(key.tenant, key.agent, schedule.grant)
        except SlipwayError as error:
            if error.reason in _ENDS:
                await self._stop(schedule, error.message)
                return
            raise Unavailable("identity does not answer") from error
        async with self._transaction() as conn:
            if await self._schedules.get(conn, key, lock=True) == schedule:
                await self._schedules.renew(conn, schedule, grant.schedule_grant)

    async def _fire_due(self) -> float:
        """Seconds until something is due."""
        async with self._transaction() as conn:
            found = await self._schedules.due(conn, _BATCH)
            wait = await self._schedules.next_wake(conn)
        for schedule in found:
            try:
                await self._look_at(schedule)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - one schedule must not end the others
                _log.error("schedule.stuck", agent=schedule.key.agent, schedule=schedule.key.name, exc_info=error)
                with suppress(SlipwayError):
                    await self._postpone(schedule)
        if found:
            return 0.0 if len(found) == _BATCH else 1.0
        return wait if wait is not None else self._look_seconds

    async def _look_at(self, schedule: Schedule) -> None:
        now = datetime.now(UTC)
        try:
            due = _due(schedule, now)
        except ScheduleInvalid as error:
            # A zone that the tz database no longer has.
            await self._stop(schedule, str(error))
            return
        if due is None:
            return
        grant: ScheduledGrant | None = None
        if not due.late:
            try:
                grant = await self._tokens.scheduled(schedule.key.tenant, schedule.key.agent, schedule.grant)
            except SlipwayError as error:
                if error.reason in _ENDS:
                    await self._stop(schedule, error.message)
                else:
                    _log.warning("schedule.no_grant", agent=schedule.key.agent, schedule=schedule.key.name)
                    await self._postpone(schedule)
                return
        with span("fire_schedule", attributes={"gen_ai.agent.name": schedule.key.agent}):
            async with self._transaction() as conn:
                current = await self._schedules.get(conn, schedule.key, lock=True)
                if current == schedule:
                    await self._fire(conn, due, grant, now)

    async def _fire(self, conn: Any, due: Due, grant: ScheduledGrant | None, now: datetime) -> None:
        key = due.schedule.key
        firing = await self._outcome(conn, due, grant)
        if firing is not None and await self._schedules.note(conn, key, firing):
            FIRED.labels(firing.outcome.lower()).inc()
            FIRED_LATE.observe(max((now - due.time).total_seconds(), 0.0))
            _log.info("schedule.fired", agent=key.agent, schedule=key.name, outcome=firing.outcome)
            if firing.outcome == "FAILED" and grant is not None:
                facts = {"due": due.time.isoformat(), "message": firing.message}
                resource = f"schedule:{key.agent}/{key.name}"
                await record(conn, self._evidence, grant.caller, resource, "schedule.failed", dict(facts), None)
        await self._go_on(conn, due, firing, now)
        if grant is not None:
            await self._schedules.renew(conn, due.schedule, grant.schedule_grant)

    async def _go_on(self, conn: Any, due: Due, firing: Firing | None, now: datetime) -> None:
        """When it is due next. A queued due time stays until its run has begun."""
        schedule = due.schedule
        queued = schedule.queued_time
        next_time = schedule.next_time
        if due.from_queue:
            queued = None if firing is not None else queued
        else:
            next_time = due.cron.next_after(max(now, due.time))
            if firing is not None and firing.outcome == "QUEUED":
                queued = due.time
        wake_at = next_time
        if queued is not None and (wake_at is None or wake_at > now + _LOOK_AT_QUEUE):
            wake_at = now + _LOOK_AT_QUEUE
        await self._schedules.go_on(conn, schedule.key, next_time=next_time, queued=queued, wake_at=wake_at)

    async def _outcome(self, conn: Any, due: Due, grant: ScheduledGrant | None) -> Firing | None:
        """What comes of a due time; None: it goes on waiting for the runs before it."""
        if grant is None:
            return Firing(due.time, "MISSED", "no worker looked at it in time")
        schedule = due.schedule
        running = await self._schedules.open_runs(conn, schedule.key)
        if running and schedule.wanted.overlap != "CANCEL_OLDER":
            if due.from_queue:
                return None
            if schedule.wanted.overlap == "SKIP" or schedule.queued_time is not None:
                return Firing(due.time, "SKIPPED", f"run {running[0].run_id} had not ended")
            return Firing(due.time, "QUEUED", f"waits for run {running[0].run_id} to end")
        for run in running:
            body = {
                "by": grant.caller.subject,
                "reason": f"the schedule {schedule.key.name} is due again",
                "force": False,
            }
            await self._runs.put_in_inbox(conn, run, "cancel", body)
            await self._runs.wake(conn, run, new_id("wake"))
        return await self._start(conn, due, grant)

    async def _start(self, conn: Any, due: Due, grant: ScheduledGrant) -> Firing:
        schedule = due.schedule
        request = StartRequest(
            agent=schedule.key.agent,
            version=0,
            input_json=json.dumps(schedule.wanted.input, ensure_ascii=False),
            session_id="",
            labels=schedule.wanted.labels,
            run_grant=grant.run_grant,
            priority=schedule.wanted.priority,
            not_before=None,
            schedule=schedule.key.name,
        )
        try:
            async with conn.transaction():
                run = await self._launcher.launch(conn, grant.caller, request, check_request(request))
        except SlipwayError as error:
            if error.kind in (ErrorKind.UNAVAILABLE, ErrorKind.INTERNAL):
                raise
            return Firing(due.time, "FAILED", f"{error.reason}: {error.message}"[:1000])
        return Firing(due.time, "STARTED", "", run.identity.run_id)

    async def _stop(self, schedule: Schedule, reason: str) -> None:
        key = schedule.key
        async with self._transaction() as conn:
            current = await self._schedules.get(conn, key, lock=True)
            if current != schedule:
                return
            await self._schedules.stop(conn, key, reason[:1000])
            facts = {"reason": reason, "owner": schedule.owner}
            resource = f"schedule:{key.agent}/{key.name}"
            await record(conn, self._evidence, _own(key.tenant), resource, "schedule.stopped", dict(facts), None)
        FIRED.labels("stopped").inc()
        _log.warning("schedule.stopped", agent=key.agent, schedule=key.name, reason=reason)

    async def _postpone(self, schedule: Schedule) -> None:
        async with self._transaction() as conn:
            current = await self._schedules.get(conn, schedule.key, lock=True)
            if current == schedule:
                await self._schedules.go_on(
                    conn,
                    schedule.key,
                    next_time=schedule.next_time,
                    queued=schedule.queued_time,
                    wake_at=datetime.now(UTC) + _AGAIN,
                )


def _due(schedule: Schedule, now: datetime) -> Due | None:
    """What is due; None when nothing is: somebody was quicker."""
    wanted = schedule.wanted
    cron = Cron(wanted.cron, wanted.time_zone)
    if schedule.next_time is not None and schedule.next_time <= now:
        newest = cron.newest(schedule.next_time, now)
        return Due(schedule, cron, newest, from_queue=False, late=now - newest > wanted.catch_up)
    if schedule.queued_time is not None:
        return Due(schedule, cron, schedule.queued_time, from_queue=True, late=False)
    return None


def _own(tenant: str) -> Caller:
    """The orchestrator itself, in the audit log."""
    return Caller(
        subject="service:orchestrator",
        tenant=tenant,
        kind="service",
        roles=frozenset({"service"}),
        groups=frozenset(),
        act=None,
        run_id=None,
        token_id="",
        expires_at=datetime.max.replace(tzinfo=UTC),
    )
