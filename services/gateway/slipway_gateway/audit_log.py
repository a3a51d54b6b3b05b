"""What the gateway puts into the audit log: who made and ended which API key."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.telemetry import current_trace_id

from slipway_gateway.api_keys import ApiKey


class AuditLog:
    """Seals the gateway's events and records them in the transaction of the change."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    async def key_created(self, connection: Any, key: ApiKey, caller: Caller, policy: PolicyDecision) -> None:
        """`api_key.created`, with what the key may do and until when."""
        data = {"name": key.name, "roles": list(key.roles), "expire_time": key.expire_time.isoformat()}
        await self._record(connection, "api_key.created", key, caller, policy, data)

    async def key_revoked(self, connection: Any, key: ApiKey, caller: Caller, policy: PolicyDecision) -> None:
        """`api_key.revoked`."""
        await self._record(connection, "api_key.revoked", key, caller, policy, {"name": key.name})

    async def _record(
        self,
        connection: Any,
        event_type: str,
        key: ApiKey,
        caller: Caller,
        policy: PolicyDecision,
        data: Mapping[str, object],
    ) -> None:
        sealed = self._evidence.seal(
            event_type,
            caller=caller,
            subject=key.owner,
            resource=f"ApiKey/{key.key_id}",
            data=data,
            policy=policy,
            time=datetime.now(UTC),
            trace_id=current_trace_id(),
        )
        await self._evidence.record(connection, sealed, subject=key.owner)
