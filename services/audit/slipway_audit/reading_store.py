"""What was read, and by whom, as events of the log."""

from collections.abc import Mapping
from datetime import UTC, datetime

import asyncpg
from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import transaction
from slipway_chassis.telemetry import current_trace_id


class ReadingStore:
    """Commits an event for each reading; it comes into the log by the way of all events."""

    def __init__(self, pool: asyncpg.Pool, events: Evidence) -> None:
        self._pool = pool
        self._events = events

    async def record(
        self, caller: Caller, event_type: str, policy: PolicyDecision, data: Mapping[str, str | int | bool]
    ) -> None:
        """Record a reading of the caller's log. Raises StoreUnavailable: what is not recorded is not handed out."""
        sealed = self._events.seal(
            event_type,
            caller=caller,
            subject=caller.subject,
            resource=f"audit/{caller.tenant}",
            data=data,
            policy=policy,
            time=datetime.now(UTC),
            trace_id=current_trace_id(),
        )
        async with transaction(self._pool) as conn:
            await self._events.record(conn, sealed, subject=caller.subject)
