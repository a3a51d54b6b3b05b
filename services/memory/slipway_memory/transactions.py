"""One transaction for a change and everything that must commit with it: audit event, message, first answer, objects."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import asyncpg
from pydantic import TypeAdapter
from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence, SealedEvent
from slipway_chassis.idempotency import once
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import transaction
from slipway_chassis.telemetry import current_trace_id

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Database:
    """The service's database and what writes into it besides the stores."""

    pool: asyncpg.Pool
    outbox: Outbox
    evidence: Evidence

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """A transaction; commits at the end of the block."""
        async with transaction(self.pool) as connection:
            yield Transaction(connection, self.outbox, self.evidence)


def row_values(row: asyncpg.Record, **replaced: Any) -> dict[str, Any]:
    """A row as keyword arguments, some values replaced by converted ones. The types are the query's business."""
    return {**dict(row.items()), **replaced}


class Transaction:
    """An open transaction. `connection` is for the stores."""

    def __init__(self, connection: Any, outbox: Outbox, evidence: Evidence) -> None:
        self.connection = connection
        self._outbox = outbox
        self._evidence = evidence

    async def once(
        self,
        caller: Caller,
        method: str,
        request_id: str,
        fingerprint: bytes,
        answers: TypeAdapter[T],
        produce: Callable[[], Awaitable[T]],
    ) -> T:
        """`produce`'s answer, or the first one for a request id that was used before (chassis: idempotency)."""

        async def encoded() -> bytes:
            return answers.dump_json(await produce())

        return answers.validate_json(await once(self.connection, caller, method, request_id, fingerprint, encoded))

    async def record(
        self,
        event: str,
        *,
        caller: Caller,
        resource: str,
        data: Mapping[str, Any],
        policy: PolicyDecision | None = None,
    ) -> SealedEvent:
        """Records what `caller` did as an audit event of this transaction."""
        sealed = self._evidence.seal(
            event,
            caller=caller,
            subject=caller.subject,
            resource=resource,
            data=data,
            run_id=caller.run_id,
            policy=policy,
            time=datetime.now(UTC),
            trace_id=current_trace_id(),
        )
        await self._evidence.record(self.connection, sealed, subject=caller.subject)
        return sealed

    async def send(self, topic: str, body: bytes, *, message_id: str, tenant: str) -> None:
        """Sends a message when the transaction commits."""
        await self._outbox.add(self.connection, topic, body, message_id=message_id, tenant=tenant)

    async def keep_object(self, key: str) -> None:
        """The object has a row from now on: the sweeper leaves it alone."""
        await self.connection.execute("DELETE FROM orphan_object WHERE object_key = $1", key)

    async def drop_object(self, key: str) -> None:
        """The object's row goes: the sweeper deletes it."""
        await self.connection.execute(
            "INSERT INTO orphan_object (object_key, delete_after) VALUES ($1, now())"
            " ON CONFLICT (object_key) DO UPDATE SET delete_after = now()",
            key,
        )
