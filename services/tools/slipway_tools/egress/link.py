"""Egress of calls: a door for a program whose tool has rules, and the audit trail of what goes through it."""

import shutil
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.postgres import transaction
from slipway_chassis.telemetry import current_trace_id

from slipway_tools.egress.call import EgressCall
from slipway_tools.egress.door import Door, make_home
from slipway_tools.egress.proxy import Proxy
from slipway_tools.egress.rules import EgressRules
from slipway_tools.sandbox.held import Doorway, Network


class EgressLog:
    """Writes an audit event `tool.egress` per request."""

    def __init__(self, pool: Any, evidence: Evidence) -> None:
        self._pool = pool
        self._evidence = evidence

    async def record(self, call: EgressCall, facts: dict[str, Any]) -> None:
        """Commit the event of one request."""
        caller = call.caller
        sealed = self._evidence.seal(
            "tool.egress",
            caller=caller,
            subject=caller.subject,
            resource=f"tool/{call.tool}",
            data=facts,
            run_id=call.run_id or None,
            time=datetime.now(UTC),
            trace_id=current_trace_id(),
        )
        async with transaction(self._pool) as conn:
            await self._evidence.record(conn, sealed, subject=caller.subject)


class Egress:
    """Opens doors for sandboxes."""

    def __init__(self, rules: EgressRules, proxy: Proxy, audit: EgressLog) -> None:
        self._rules = rules
        self._proxy = proxy
        self._audit = audit
        self._home: Path | None = None

    def call(self, caller: Caller, tool: str, run_id: str) -> EgressCall | None:
        """The dealings of a call that is to be made; None: its tool has no network."""
        if self._rules.of(caller.tenant, tool) is None:
            return None
        return EgressCall(caller, tool, run_id, lambda: self._rules.of(caller.tenant, tool), self._audit.record)

    def network(self, call: EgressCall) -> Network:
        """The network of a call's sandbox."""

        def serve(door: Doorway) -> AbstractContextManager[None]:
            assert isinstance(door, Door)  # noqa: S101 - `open_door` made it
            return door.serving(call)

        return Network(self.open_door, serve)

    async def open_door(self) -> Door:
        """A door for a new sandbox."""
        if self._home is None:
            self._home = make_home()
        return await Door.open(self._home, self._proxy.authority.pem, self._proxy.serve)

    def close(self) -> None:
        """Remove the folder of doors."""
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
