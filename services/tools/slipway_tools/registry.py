"""The tools that a caller has: the builtin ones and those of the tenant, subject to policy."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from slipway_chassis import jcs
from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.policy import PolicyDecision, PolicyEngine, Resource
from slipway_chassis.postgres import transaction
from slipway_chassis.telemetry import current_trace_id

from slipway_tools import store
from slipway_tools.errors import InvalidTool, ToolNotFound
from slipway_tools.http_tool import HttpCaller
from slipway_tools.tool import Declaration, Tool


class Registry:
    """Looks tools up, and takes declarations."""

    def __init__(
        self, pool: Any, policy: PolicyEngine, evidence: Evidence, http: HttpCaller, builtin: Mapping[str, Declaration]
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._evidence = evidence
        self._http = http
        now = datetime.now(UTC)
        self._builtin = {name: Tool(declaration, now, now) for name, declaration in builtin.items()}

    def authorize(self, caller: Caller, action: str, name: str, kind: str) -> PolicyDecision:
        """The policy's permission; raises PolicyDenied."""
        return self._policy.authorize(caller, action, _resource(caller, name, kind))

    async def find(self, caller: Caller, name: str, action: str) -> tuple[Tool, PolicyDecision]:
        """The caller's tool of that name, and the permission for `action`.

        Raises:
            ToolNotFound: the tenant has none; that is found out before the policy is asked.
            PolicyDenied: there is one, and the caller may not.
        """
        tool = self._builtin.get(name) or await store.get_tool(self._pool, caller.tenant, name)
        if tool is None:
            raise ToolNotFound(f"no tool {name[:64]}", field="tool")
        return tool, self.authorize(caller, action, name, tool.declaration.kind)

    async def page(self, caller: Caller, after: str, size: int) -> tuple[list[Tool], str]:
        """Up to `size` tools that the caller may read, by name, and the name to go on after (empty: no more)."""
        found: list[Tool] = []
        while True:
            declared = await store.list_tools(self._pool, caller.tenant, after, size + 1)
            names = {tool.declaration.name: tool for tool in declared}
            names |= {name: tool for name, tool in self._builtin.items() if name > after}
            if len(declared) > size:  # beyond the last row the table may have names that come before a builtin's
                last = declared[-1].declaration.name
                names = {name: tool for name, tool in names.items() if name <= last}
            for name in sorted(names):
                if len(found) == size:
                    return found, after
                after = name
                resource = _resource(caller, name, names[name].declaration.kind)
                if self._policy.decide(caller, "ReadTool", resource).allowed:
                    found.append(names[name])
            if len(declared) <= size:
                return found, ""

    async def put(self, caller: Caller, declaration: Declaration, request_id: str) -> tuple[Tool, bool]:
        """Declare a tool of the caller's tenant; True when it is new. The same declaration again changes nothing.

        Raises:
            PolicyDenied, InvalidTool, SecretUnavailable, IdempotencyKeyReused.
        """
        permission = self.authorize(caller, "ManageTool", declaration.name, declaration.kind)
        if declaration.name in self._builtin:
            raise InvalidTool("is the name of a builtin tool", field="tool")
        if fault := self._http.check(declaration, caller.tenant):
            raise InvalidTool(fault, field="http.url")
        fingerprint = hashlib.sha256(jcs.canonical_json(declaration.content())).digest()
        async with transaction(self._pool) as conn:

            async def produce() -> bytes:
                put = await store.put_tool(conn, caller.tenant, declaration)
                if put.previous != declaration.digest:
                    await self._record(conn, caller, declaration, put.previous, permission)
                return b"created" if put.previous is None else b"kept"

            outcome = await once(conn, caller, "PutTool", request_id, fingerprint, produce)
            tool = await store.get_tool(conn, caller.tenant, declaration.name)
        assert tool  # noqa: S101 - tools are never removed
        return tool, outcome == b"created"

    async def _record(
        self, conn: Any, caller: Caller, declaration: Declaration, previous: str | None, permission: PolicyDecision
    ) -> None:
        data = {
            # As text: schemas may hold fractions, which events don't.
            "declaration": jcs.canonical_json(declaration.content()).decode(),
            "digest": declaration.digest,
            "previous_digest": previous or "",
        }
        sealed = self._evidence.seal(
            "tool.declared",
            caller=caller,
            subject=caller.subject,
            resource=f"tool/{declaration.name}",
            data=data,
            policy=permission,
            time=datetime.now(UTC),
            trace_id=current_trace_id(),
        )
        await self._evidence.record(conn, sealed, subject=caller.subject)


def _resource(caller: Caller, name: str, kind: str) -> Resource:
    return Resource("Tool", name, caller.tenant, {"name": name, "kind": kind})
