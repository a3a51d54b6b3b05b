"""The tools that a caller has: the builtin ones and those of the tenant, subject to policy."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from slipway_tools.errors import ApprovalRequired, InvalidTool, ToolNotFound
from slipway_tools.http_tool import HttpCaller
from slipway_tools.reach import Reaches
from slipway_tools.sql_tool import SqlCaller
from slipway_tools.tool import Declaration, Tool


@dataclass(frozen=True)
class Origin:
    """What policy may ask of a call: whether its arguments derive from outside, and whether somebody approved it."""

    arguments_tainted: bool = False
    approved: bool = False


class Registry:
    """Looks tools up, and takes declarations."""

    def __init__(
        self,
        pool: Any,
        policy: PolicyEngine,
        evidence: Evidence,
        http: HttpCaller,
        builtin: Mapping[str, Declaration],
        reaches: Reaches,
        sql: SqlCaller,
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._evidence = evidence
        self._http = http
        self._reaches = reaches
        self._sql = sql
        now = datetime.now(UTC)
        self._builtin = {name: Tool(declaration, now, now) for name, declaration in builtin.items()}

    async def find(self, caller: Caller, name: str, version: int = 0) -> tuple[Tool, PolicyDecision]:
        """The caller's tool of that name, in the version given or the newest (0), and the permission to read it.

        Raises:
            ToolNotFound: the tenant has none; that is found out before the policy is asked.
            PolicyDenied: there is one, and the caller may not.
        """
        tool = await self._find(caller, name, version)
        return tool, self._policy.authorize(caller, "ReadTool", _resource(caller, tool))

    async def find_to_invoke(
        self, caller: Caller, name: str, version: int, origin: Origin
    ) -> tuple[Tool, PolicyDecision]:
        """Like `find`, with the permission to call it.

        Raises:
            ToolNotFound, PolicyDenied.
            ApprovalRequired: policy permits the call with an approval only, and there is none.
        """
        tool = await self._find(caller, name, version)
        decision = self.decide_invocation(caller, tool, origin)
        if not decision.allowed and not origin.approved:
            approved = Origin(origin.arguments_tainted, approved=True)
            if self.decide_invocation(caller, tool, approved).allowed:
                policies = ",".join(decision.policies)
                raise ApprovalRequired(
                    f"calling {name} so needs an approval",
                    metadata={"tool": name, "policies": policies, "policy_digest": decision.digest},
                )
        if not decision.allowed:
            self._policy.authorize(caller, "InvokeTool", _resource(caller, tool), _context(origin))
        return tool, decision

    def decide_invocation(self, caller: Caller, tool: Tool, origin: Origin) -> PolicyDecision:
        """What policy says of a call of that origin."""
        return self._policy.decide(caller, "InvokeTool", _resource(caller, tool), _context(origin))

    def _reaching(self, caller: Caller, tool: Tool) -> Tool:
        if tool.declaration.kind in ("http", "sql", "mcp"):
            return tool
        return replace(tool, reach=self._reaches.of(caller.tenant, tool.declaration.name))

    async def _find(self, caller: Caller, name: str, version: int) -> Tool:
        tool = self._builtin.get(name) or await store.get_tool(self._pool, caller.tenant, name)
        if tool is not None and version not in (0, tool.version):
            # What was approved of an MCP tool before is not approved now.
            old = tool.declaration.kind not in ("mcp", "builtin")
            tool = await store.get_version(self._pool, caller.tenant, name, version) if old else None
        if tool is None:
            raise ToolNotFound(f"no tool {name[:64]}" + (f" in version {version}" if version else ""), field="tool")
        return self._reaching(caller, tool)

    async def versions(self, caller: Caller, name: str, before: int, size: int) -> tuple[list[Tool], int]:
        """Up to `size` versions below `before`, newest first, and the version to go on before (0: no more)."""
        await self.find(caller, name)
        found = await store.list_versions(self._pool, caller.tenant, name, before, size + 1)
        more = len(found) > size
        return found[:size], found[size - 1].version if more else 0

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
                tool = self._reaching(caller, names[name])
                if self._policy.decide(caller, "ReadTool", _resource(caller, tool)).allowed:
                    found.append(tool)
            if len(declared) <= size:
                return found, ""

    async def put(self, caller: Caller, declaration: Declaration, request_id: str) -> tuple[Tool, bool]:
        """Declare a tool of the caller's tenant; True when it is new. The same declaration again changes nothing.

        Raises:
            PolicyDenied, InvalidTool, SecretUnavailable, IdempotencyKeyReused, and what memory raises of a query.
        """
        permission = self._permit(caller, declaration)
        if declaration.sql:
            await self._sql.check(declaration.sql, declaration.input_schema)
        fingerprint = hashlib.sha256(jcs.canonical_json(declaration.content())).digest()
        async with transaction(self._pool) as conn:

            async def produce() -> bytes:
                return b"created" if await self._put(conn, caller, declaration, permission) else b"kept"

            outcome = await once(conn, caller, "PutTool", request_id, fingerprint, produce)
            tool = await store.get_tool(conn, caller.tenant, declaration.name)
        if tool is None:
            raise ToolNotFound(f"{declaration.name} was removed since", field="tool")
        return tool, outcome == b"created"

    async def put_all(self, caller: Caller, declarations: Sequence[Declaration]) -> list[Tool]:
        """Declare several tools, all or none; raises like `put`."""
        permissions = [self._permit(caller, declaration) for declaration in declarations]
        async with transaction(self._pool) as conn:
            # In the order of their names: two imports that share tools must not wait for each other.
            pairs = sorted(zip(declarations, permissions, strict=True), key=lambda pair: pair[0].name)
            for declaration, permission in pairs:
                await self._put(conn, caller, declaration, permission)
            found = [await store.get_tool(conn, caller.tenant, declaration.name) for declaration in declarations]
        return [tool for tool in found if tool]

    def _permit(self, caller: Caller, declaration: Declaration) -> PolicyDecision:
        now = datetime.now(UTC)
        proposed = self._reaching(caller, Tool(declaration, now, now))
        permission = self._policy.authorize(caller, "ManageTool", _resource(caller, proposed))
        if declaration.name in self._builtin:
            raise InvalidTool("is the name of a builtin tool", field="tool")
        if declaration.http and (fault := self._http.check(declaration, caller.tenant)):
            raise InvalidTool(fault, field="http.url")
        return permission

    async def _put(self, conn: Any, caller: Caller, declaration: Declaration, permission: PolicyDecision) -> bool:
        await store.lock_tool(conn, caller.tenant, declaration.name)
        await refuse_other_kind(conn, caller.tenant, declaration)
        put = await store.put_tool(conn, caller.tenant, declaration)
        if put.previous != declaration.digest:
            await record_declared(self._evidence, conn, caller, put.tool, put.previous, permission)
        return put.previous is None


async def refuse_other_kind(conn: Any, tenant: str, declaration: Declaration) -> None:
    """An MCP server's tools and declared ones don't take each other's names: raises InvalidTool."""
    tool = await store.get_tool(conn, tenant, declaration.name)
    if tool is not None and (tool.declaration.kind == "mcp") != (declaration.kind == "mcp"):
        what = "a tool of an MCP server" if tool.declaration.kind == "mcp" else "a declared tool"
        raise InvalidTool(f"{declaration.name} is the name of {what}", field="tool")


async def record_declared(
    evidence: Evidence, conn: Any, caller: Caller, tool: Tool, previous: str | None, permission: PolicyDecision
) -> None:
    """Record a new version of a tool in the transaction that makes it."""
    declaration = tool.declaration
    data = {
        # As text: schemas may hold fractions, which events don't.
        "declaration": jcs.canonical_json(declaration.content()).decode(),
        "digest": declaration.digest,
        "previous_digest": previous or "",
        "version": tool.version,
    }
    sealed = evidence.seal(
        "tool.declared",
        caller=caller,
        subject=caller.subject,
        resource=f"tool/{declaration.name}",
        data=data,
        policy=permission,
        time=datetime.now(UTC),
        trace_id=current_trace_id(),
    )
    await evidence.record(conn, sealed, subject=caller.subject)


def _resource(caller: Caller, tool: Tool) -> Resource:
    attributes = {
        "name": tool.declaration.name,
        "kind": tool.declaration.kind,
        "side_effect": tool.side_effect,
        "egress": tool.egress,
        "untrusted_output": tool.untrusted_output,
    }
    return Resource("Tool", tool.declaration.name, caller.tenant, attributes)


def _context(origin: Origin) -> dict[str, bool]:
    return {"arguments_tainted": origin.arguments_tainted, "approved": origin.approved}
