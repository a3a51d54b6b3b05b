"""Rows of `schedule` and `schedule_firing`."""

import json
from datetime import datetime, timedelta
from typing import Any

from pydantic import JsonValue
from slipway_chassis.crypto import SubjectErased, SubjectKeys

from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.schedules import Firing, Schedule, ScheduleKey, Wanted
from slipway_orchestrator.store.runs import identity_of

_KEY = "tenant = $1 AND agent = $2 AND name = $3"
_PUT = """
INSERT INTO schedule (tenant, agent, name, cron, time_zone, labels, priority, overlap, catch_up, paused, owner, input,
    schedule_grant, next_time, wake_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)
ON CONFLICT (tenant, agent, name) DO UPDATE SET cron = $4, time_zone = $5, labels = $6, priority = $7, overlap = $8,
    catch_up = $9, paused = $10, owner = $11, input = $12, schedule_grant = $13, next_time = $14, wake_at = $14,
    queued_time = NULL, stop_reason = '', grant_time = now(), update_time = now()
RETURNING xmax = 0 AS created
"""
# The statements below are put together from constants.
_FIRED = f"""
UPDATE schedule SET last_time = $4, last_outcome = $5, last_message = $6,
    last_run_id = CASE WHEN $7 = '' THEN last_run_id ELSE $7 END
WHERE {_KEY}
"""  # noqa: S608
_NOTE = """
INSERT INTO schedule_firing (tenant, agent, name, due_time, outcome, run_id) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant, agent, name, due_time) DO UPDATE SET outcome = $5, run_id = $6
    WHERE schedule_firing.outcome = 'QUEUED'
RETURNING true
"""
_OPEN = """
SELECT * FROM run WHERE tenant = $1 AND agent = $2 AND schedule = $3 AND schedule <> '' AND end_time IS NULL
ORDER BY run_id FOR NO KEY UPDATE
"""


class ScheduleStore:
    """Schedules in the database. Input and grant are sealed under the owner's key."""

    def __init__(self, keys: SubjectKeys) -> None:
        self._keys = keys

    async def put(
        self, conn: Any, key: ScheduleKey, wanted: Wanted, owner: str, grant: str, next_time: datetime | None
    ) -> bool:
        """Create or replace a schedule. True: it was not there."""

        async def sealed(text: str) -> bytes:
            return await self._keys.encrypt(conn, key.tenant, owner, text.encode())

        created = await conn.fetchval(
            _PUT,
            key.tenant,
            key.agent,
            key.name,
            wanted.cron,
            wanted.time_zone,
            json.dumps(dict(wanted.labels)),
            wanted.priority,
            wanted.overlap,
            wanted.catch_up,
            wanted.paused,
            owner,
            await sealed(json.dumps(wanted.input, ensure_ascii=False)),
            await sealed(grant),
            next_time,
        )
        return bool(created)

    async def get(self, conn: Any, key: ScheduleKey, *, lock: bool = False) -> Schedule | None:
        """The schedule; None when there is none. With `lock`, nobody changes it until the transaction ends."""
        more = " FOR UPDATE" if lock else ""
        row = await conn.fetchrow(f"SELECT * FROM schedule WHERE {_KEY}{more}", key.tenant, key.agent, key.name)  # noqa: S608
        return None if row is None else await self._schedule(conn, row)

    async def page(self, conn: Any, tenant: str, agent: str, after: str, limit: int) -> list[Schedule]:
        """An agent's schedules by name."""
        rows = await conn.fetch(
            "SELECT * FROM schedule WHERE tenant = $1 AND agent = $2 AND name > $3 ORDER BY name LIMIT $4",
            tenant,
            agent,
            after,
            limit,
        )
        return [await self._schedule(conn, row) for row in rows]

    async def delete(self, conn: Any, key: ScheduleKey) -> bool:
        """Remove a schedule. False when there was none."""
        done = await conn.fetchval(
            f"DELETE FROM schedule WHERE {_KEY} RETURNING true",  # noqa: S608
            key.tenant,
            key.agent,
            key.name,
        )
        return bool(done)

    async def due(self, conn: Any, limit: int) -> list[Schedule]:
        """Schedules that must be looked at now, the longest due first."""
        rows = await conn.fetch("SELECT * FROM schedule WHERE wake_at <= now() ORDER BY wake_at LIMIT $1", limit)
        return [await self._schedule(conn, row) for row in rows]

    async def next_wake(self, conn: Any) -> float | None:
        """Seconds until a schedule must be looked at; None when none must."""
        return await conn.fetchval("SELECT extract(epoch FROM min(wake_at) - now())::float8 FROM schedule")

    async def open_runs(self, conn: Any, key: ScheduleKey) -> list[RunIdentity]:
        """Runs of a schedule that have not ended, oldest first, locked."""
        return [identity_of(row) for row in await conn.fetch(_OPEN, key.tenant, key.agent, key.name)]

    async def note(self, conn: Any, key: ScheduleKey, firing: Firing) -> bool:
        """Keep what came of a due time. False when that was dealt with before: then nothing is changed."""
        noted = await conn.fetchval(_NOTE, key.tenant, key.agent, key.name, firing.due, firing.outcome, firing.run_id)
        if noted:
            await conn.execute(
                _FIRED,
                key.tenant,
                key.agent,
                key.name,
                firing.due,
                firing.outcome,
                firing.message,
                firing.run_id,
            )
            await conn.execute(
                f"DELETE FROM schedule_firing WHERE {_KEY} AND due_time < now() - interval '30 days'",  # noqa: S608
                key.tenant,
                key.agent,
                key.name,
            )
        return bool(noted)

    async def go_on(
        self,
        conn: Any,
        key: ScheduleKey,
        *,
        next_time: datetime | None,
        queued: datetime | None,
        wake_at: datetime | None,
    ) -> None:
        """When the schedule is due next, and when it must be looked at."""
        await conn.execute(
            f"UPDATE schedule SET next_time = $4, queued_time = $5, wake_at = $6 WHERE {_KEY}",  # noqa: S608
            key.tenant,
            key.agent,
            key.name,
            next_time,
            queued,
            wake_at,
        )

    async def renew(self, conn: Any, schedule: Schedule, grant: str) -> None:
        """Keep the schedule's grant as it was signed anew."""
        key = schedule.key
        sealed = await self._keys.encrypt(conn, key.tenant, schedule.owner, grant.encode())
        await conn.execute(
            f"UPDATE schedule SET schedule_grant = $4, grant_time = now() WHERE {_KEY}",  # noqa: S608
            key.tenant,
            key.agent,
            key.name,
            sealed,
        )

    async def with_old_grants(self, conn: Any, older_than: timedelta, limit: int) -> list[Schedule]:
        """Schedules that are not due, with grants signed longer ago than that."""
        rows = await conn.fetch(
            "SELECT * FROM schedule WHERE grant_time < now() - $1::interval AND next_time > now()"
            " ORDER BY grant_time LIMIT $2",
            older_than,
            limit,
        )
        return [await self._schedule(conn, row) for row in rows]

    async def stop(self, conn: Any, key: ScheduleKey, reason: str) -> None:
        """Start nothing any more, until it is put again."""
        await conn.execute(
            f"UPDATE schedule SET stop_reason = $4, next_time = NULL, queued_time = NULL, wake_at = NULL WHERE {_KEY}",  # noqa: S608
            key.tenant,
            key.agent,
            key.name,
            reason,
        )

    async def _schedule(self, conn: Any, row: Any) -> Schedule:
        async def opened(name: str) -> str:
            try:
                return (await self._keys.decrypt(conn, row["tenant"], row["owner"], row[name])).decode()
            except SubjectErased:
                return ""

        text = await opened("input")
        value: JsonValue = json.loads(text) if text else None
        return Schedule(
            key=ScheduleKey(row["tenant"], row["agent"], row["name"]),
            wanted=Wanted(
                cron=row["cron"],
                time_zone=row["time_zone"],
                input=value,
                labels=json.loads(row["labels"]),
                priority=row["priority"],
                overlap=row["overlap"],
                catch_up=row["catch_up"],
                paused=row["paused"],
            ),
            owner=row["owner"],
            grant=await opened("schedule_grant"),
            stop_reason=row["stop_reason"],
            next_time=row["next_time"],
            queued_time=row["queued_time"],
            last_time=row["last_time"],
            last_run_id=row["last_run_id"],
            last_outcome=row["last_outcome"],
            last_message=row["last_message"],
            create_time=row["create_time"],
            update_time=row["update_time"],
        )
