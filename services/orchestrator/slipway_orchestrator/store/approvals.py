"""Rows of `approval`."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys

from slipway_orchestrator.core.events import ApprovalRequested
from slipway_orchestrator.runs import Approval, RunIdentity, Vote, voter_facts, voter_of
from slipway_orchestrator.store.journal import Journal

_INSERT = """
INSERT INTO approval (approval_id, tenant, run_id, step_id, agent, version, state, tool, subject, arguments,
    arguments_digest, arguments_schema, approvers, proposer, expire_time, create_time, quorum, remind_every, reason,
    escalation)
VALUES ($1, $2, $3, $4, $5, $6, 'PENDING', $7, $8, $9, $10, $11, $12, $13, $14, now(), $15,
    make_interval(secs => $16), $17, $18)
"""
_CLOSE_OLDER = """
UPDATE approval SET state = 'CANCELLED', decide_time = now()
WHERE run_id = $1 AND step_id = $2 AND state = 'PENDING'
"""
_SETTLE = """
UPDATE approval SET state = $2, decider = $3, decide_time = now(), message = $4, decided_arguments = $5
WHERE approval_id = $1 AND state = 'PENDING' AND expire_time > now() RETURNING decide_time
"""


class ApprovalStore:
    """Approvals in the database. Texts are sealed under the key of the run's subject."""

    def __init__(self, keys: SubjectKeys, journal: Journal) -> None:
        self._keys = keys
        self._journal = journal

    async def insert(self, conn: Any, run: RunIdentity, asked: ApprovalRequested, schema: str) -> None:
        """The row of an approval that the journal asks for. One that was open for the step is over."""
        await conn.execute(_CLOSE_OLDER, run.run_id, asked.step_id)
        await conn.execute(
            _INSERT,
            asked.approval_id,
            run.tenant,
            run.run_id,
            asked.step_id,
            run.agent,
            run.version,
            asked.tool or "",
            run.subject,
            await self._journal.seal(conn, run, asked.arguments),
            asked.arguments_digest,
            schema,
            list(asked.approvers),
            asked.proposer,
            asked.expire_time,
            asked.quorum,
            asked.remind_every,
            asked.reason or "",
            asked.escalation,
        )

    async def settle(
        self, conn: Any, approval: Approval, *, state: str, decider: str, message: str, arguments: JsonValue
    ) -> bool:
        """Decide a pending approval. False when it was not pending any more: who comes second changes nothing."""

        async def sealed(value: JsonValue) -> bytes:
            text = json.dumps(value, ensure_ascii=False).encode()
            return await self._keys.encrypt(conn, approval.tenant, approval.subject, text)

        decided = await conn.fetchval(
            _SETTLE, approval.approval_id, state, decider, await sealed(message), await sealed(arguments)
        )
        return decided is not None

    async def vote(self, conn: Any, approval: Approval, voter: Caller, message: str) -> bool:
        """Note one of several approvals. False when the person has voted already."""
        facts = {"voter": voter_facts(voter), "message": message}
        sealed = await self._keys.encrypt(conn, approval.tenant, approval.subject, json.dumps(facts).encode())
        done = await conn.fetchval(
            "INSERT INTO approval_vote (approval_id, person, vote, vote_time) VALUES ($1, $2, $3, now())"
            " ON CONFLICT DO NOTHING RETURNING true",
            approval.approval_id,
            voter.person,
            sealed,
        )
        return bool(done)

    async def remind(self, conn: Any, approval_id: str, count: int) -> None:
        """Note a reminder."""
        await conn.execute(
            "UPDATE approval SET reminders = $2, last_reminder = now() WHERE approval_id = $1 AND state = 'PENDING'",
            approval_id,
            count,
        )

    async def expire(self, conn: Any, approval_id: str) -> bool:
        """Let a pending approval run out. False when somebody decided it first."""
        done = await conn.fetchval(
            "UPDATE approval SET state = 'EXPIRED', decide_time = now()"
            " WHERE approval_id = $1 AND state = 'PENDING' RETURNING approval_id",
            approval_id,
        )
        return done is not None

    async def give_up(self, conn: Any, approval_id: str) -> None:
        """Nobody is asked any more: what it was for was given up. No error when somebody decided first."""
        await conn.execute(
            "UPDATE approval SET state = 'CANCELLED', decide_time = now() WHERE approval_id = $1 AND state = 'PENDING'",
            approval_id,
        )

    async def cancel_pending(self, conn: Any, run_id: str) -> None:
        """The run ended: nobody is asked any more."""
        await conn.execute(
            "UPDATE approval SET state = 'CANCELLED', decide_time = now() WHERE run_id = $1 AND state = 'PENDING'",
            run_id,
        )

    async def get(self, conn: Any, tenant: str, approval_id: str) -> Approval | None:
        """The approval; None when the tenant has none of that id."""
        row = await conn.fetchrow("SELECT * FROM approval WHERE approval_id = $1 AND tenant = $2", approval_id, tenant)
        return None if row is None else await self._approval(conn, row)

    async def page(
        self, conn: Any, tenant: str, *, states: Sequence[str], run_id: str, before: str, limit: int
    ) -> list[Approval]:
        """Approvals with ids below `before`, newest first."""
        rows = await conn.fetch(
            "SELECT * FROM approval WHERE tenant = $1 AND ($2 = '' OR run_id = $2)"
            " AND (cardinality($3::text[]) = 0 OR state = ANY($3)) AND ($4 = '' OR approval_id < $4)"
            " ORDER BY approval_id DESC LIMIT $5",
            tenant,
            run_id,
            list(states),
            before,
            limit,
        )
        return [await self._approval(conn, row) for row in rows]

    async def _approval(self, conn: Any, row: Any) -> Approval:
        async def opened(name: str) -> JsonValue:
            if row[name] is None:
                return None
            return json.loads(await self._keys.decrypt(conn, row["tenant"], row["subject"], row[name]))

        return Approval(
            quorum=row["quorum"],
            votes=await self._votes(conn, row),
            reminders=row["reminders"],
            next_reminder_time=_next_reminder(row),
            reason=row["reason"],
            escalation=row["escalation"],
            approval_id=row["approval_id"],
            tenant=row["tenant"],
            run_id=row["run_id"],
            step_id=row["step_id"],
            agent=row["agent"],
            version=row["version"],
            state=row["state"],
            tool=row["tool"],
            subject=row["subject"],
            arguments=await opened("arguments"),
            arguments_digest=row["arguments_digest"],
            arguments_schema=row["arguments_schema"],
            approvers=tuple(row["approvers"]),
            proposer=row["proposer"],
            create_time=row["create_time"],
            expire_time=row["expire_time"],
            decider=row["decider"] or "",
            decide_time=row["decide_time"],
            message=str(await opened("message") or ""),
            decided_arguments=await opened("decided_arguments"),
        )

    async def _votes(self, conn: Any, row: Any) -> tuple[Vote, ...]:
        if row["quorum"] == 1:
            return ()
        votes: list[Vote] = []
        rows = await conn.fetch(
            "SELECT vote, vote_time FROM approval_vote WHERE approval_id = $1 ORDER BY vote_time, person",
            row["approval_id"],
        )
        for found in rows:
            facts = json.loads(await self._keys.decrypt(conn, row["tenant"], row["subject"], found["vote"]))
            votes.append(Vote(voter_of(row["tenant"], facts["voter"]), facts["message"], found["vote_time"]))
        return tuple(votes)


def _next_reminder(row: Any) -> datetime | None:
    if row["state"] != "PENDING" or row["remind_every"] is None:
        return None
    due: datetime = (row["last_reminder"] or row["create_time"]) + row["remind_every"]
    return due if due < row["expire_time"] else None
