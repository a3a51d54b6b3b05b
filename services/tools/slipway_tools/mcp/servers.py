"""The MCP servers of a tenant: who connects them, what they offer, and what of it was approved by somebody else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slipway_chassis.caller import Caller
from slipway_chassis.errors import Aborted, FailedPrecondition, NotFound
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.policy import PolicyDecision, PolicyEngine, Resource
from slipway_chassis.postgres import transaction

from slipway_tools import store as tools
from slipway_tools.errors import InvalidTool
from slipway_tools.gate import Gate
from slipway_tools.mcp import store
from slipway_tools.mcp.connection import Connection, McpServer, check
from slipway_tools.mcp.definition import Definition, diff, pinned, tool_name
from slipway_tools.mcp.http_peer import HttpPeer
from slipway_tools.mcp.log import McpLog
from slipway_tools.mcp.oauth import store as authorizations
from slipway_tools.mcp.oauth.logins import AuthorizationResponse, BegunLogin, LoginState, McpLogins
from slipway_tools.mcp.peer import Offer, Peer, PeerFailed
from slipway_tools.registry import record_declared, refuse_other_kind
from slipway_tools.tool import SideEffect, Tool

State = Literal["approved", "new", "changed", "missing", "invalid"]


class McpServerNotFound(NotFound):
    """The tenant has no MCP server of that name."""

    reason = "MCP_SERVER_NOT_FOUND"


class McpToolChanged(Aborted):
    """The tool is not what was shown: look at it again."""

    reason = "MCP_TOOL_CHANGED"


class McpServerFailed(FailedPrecondition):
    """The MCP server does not answer as it should, so nothing of it can be approved."""

    reason = "MCP_SERVER_FAILED"


@dataclass(frozen=True)
class Pin:
    """A tool to approve: its own name, the digest that was shown, and its side effect (None: the server's)."""

    name: str
    digest: str
    side_effect: SideEffect | None = None


@dataclass(frozen=True)
class ServerTool:
    """A tool as its server offers it now, beside what was approved."""

    name: str
    state: State
    offered: Definition | None
    approved: Tool | None
    diff: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Listing:
    """What a server offers; `fault` says why it did not answer."""

    server: McpServer
    tools: list[ServerTool]
    protocol_version: str = ""
    fault: str = ""


class McpServers:
    """Connects servers, shows what they offer, approves."""

    def __init__(
        self,
        pool: Any,
        policy: PolicyEngine,
        evidence: Evidence,
        http: HttpPeer,
        peers: Mapping[str, Peer],
        gate: Gate,
        logins: McpLogins,
    ) -> None:
        """`peers` talk to servers by kind of connection: `http`, `stdio`; `gate` bounds how many at a time."""
        self._pool = pool
        self._policy = policy
        self._evidence = evidence
        self._log = McpLog(evidence)
        self._http = http
        self._peers = peers
        self._gate = gate
        self._logins = logins

    def peer(self, server: McpServer) -> Peer:
        """What talks to that server."""
        return self._peers["http" if server.connection.http else "stdio"]

    async def put(self, caller: Caller, name: str, connection: Connection, request_id: str) -> tuple[McpServer, bool]:
        """Connect a server; True when it is new. Another connection makes its approvals and logins void.

        Raises:
            PolicyDenied, InvalidTool, SecretUnavailable, IdempotencyKeyReused.
        """
        check(name, connection)
        known = await store.get_server(self._pool, caller.tenant, name)
        proposer = known.proposer if known else caller.person
        permission = self._policy.authorize(caller, "ManageMcpServer", _resource(caller, name, proposer))
        if connection.http and (fault := self._http.check(caller.tenant, connection.http)):
            raise InvalidTool(fault, field="connection.http.url")
        forgotten: list[authorizations.Authorization] = []
        async with transaction(self._pool) as conn:
            await store.lock_server(conn, caller.tenant, name)

            async def produce() -> bytes:
                put = await store.put_server(conn, caller.tenant, name, connection, caller.person)
                if put.previous != connection.digest:
                    data = {"digest": connection.digest, "previous_digest": put.previous or ""}
                    data |= {"connection": _recorded(connection)}
                    # A login is for the connection that it was made for; it does not come back with it.
                    forgotten.extend(await authorizations.remove_all(conn, caller.tenant, name))
                    await self._log.record(conn, caller, "mcp.server.connected", name, data, permission)
                return b"created" if put.previous is None else b"kept"

            fingerprint = f"{name}\n{connection.digest}".encode()
            outcome = await once(conn, caller, "PutMcpServer", request_id, fingerprint, produce)
            server = await store.get_server(conn, caller.tenant, name)
        if known and forgotten:
            await self._logins.revoke(known, forgotten)
        if server is None:
            raise McpServerNotFound(f"{name} was removed since", field="server")
        return server, outcome == b"created"

    async def find(self, caller: Caller, name: str, action: str = "ReadMcpServer") -> tuple[McpServer, PolicyDecision]:
        """The caller's server of that name, and the permission for `action`; raises McpServerNotFound, PolicyDenied."""
        server = await self.connected(caller, name)
        return server, self._policy.authorize(caller, action, _resource(caller, name, server.proposer))

    async def connected(self, caller: Caller, name: str) -> McpServer:
        """The server of an approved tool: who may call the tool needs no permission to look at its server."""
        server = await store.get_server(self._pool, caller.tenant, name)
        if server is None:
            raise McpServerNotFound(f"no MCP server {name[:64]}", field="server")
        return server

    async def begin_login(self, caller: Caller, name: str, redirect_uri: str, client_metadata_url: str) -> BegunLogin:
        """Begin a login of the caller, for themselves or for the tenant, as the connection says.

        Raises:
            McpServerNotFound, PolicyDenied, and what McpLogins.begin raises.
        """
        server, _ = await self._loggable(caller, name)
        headers = self._http.headers(caller.tenant, server.connection.http) if server.connection.http else {}
        async with self._gate.enter(caller.tenant):
            return await self._logins.begin(caller, server, headers, redirect_uri, client_metadata_url)

    async def complete_login(self, caller: Caller, name: str, response: AuthorizationResponse) -> LoginState:
        """Finish a login that the caller began.

        Raises:
            McpServerNotFound, PolicyDenied, and what McpLogins.complete raises.
        """
        server, permission = await self._loggable(caller, name)
        async with self._gate.enter(caller.tenant):
            return await self._logins.complete(caller, server, response, permission)

    async def log_out(self, caller: Caller, name: str) -> bool:
        """Forget tokens, the caller's or the tenant's; True when they were revoked as well.

        Raises:
            McpServerNotFound, PolicyDenied.
        """
        server, permission = await self._loggable(caller, name)
        return await self._logins.log_out(caller, server, permission)

    async def logins(self, caller: Caller, servers: Sequence[McpServer]) -> dict[str, LoginState | None]:
        """Where logins stand for the caller, by server."""
        return await self._logins.states(caller, servers)

    async def _loggable(self, caller: Caller, name: str) -> tuple[McpServer, PolicyDecision]:
        server = await self.connected(caller, name)
        login = server.connection.login
        context = {"shared": not (login and login.per_user)}
        resource = _resource(caller, name, server.proposer)
        return server, self._policy.authorize(caller, "AuthorizeMcpServer", resource, context)

    async def page(self, caller: Caller, after: str, size: int) -> tuple[list[McpServer], str]:
        """Up to `size` servers that the caller may read, and the name to go on after (empty: no more)."""
        found: list[McpServer] = []
        while True:
            rows = await store.list_servers(self._pool, caller.tenant, after, size + 1)
            for server in rows:
                if len(found) == size:
                    return found, after
                after = server.name
                resource = _resource(caller, server.name, server.proposer)
                if self._policy.decide(caller, "ReadMcpServer", resource).allowed:
                    found.append(server)
            if len(rows) <= size:
                return found, ""

    async def delete(self, caller: Caller, name: str) -> None:
        """Disconnect a server and remove its tools; raises like `find`."""
        server, permission = await self.find(caller, name, "ManageMcpServer")
        async with transaction(self._pool) as conn:
            await store.lock_server(conn, caller.tenant, name)
            for tool in await tools.tools_of_server(conn, caller.tenant, name):
                await tools.delete_tool(conn, caller.tenant, tool.declaration.name)
            await store.delete_server(conn, caller.tenant, name)
            forgotten = await authorizations.remove_all(conn, caller.tenant, name)
            data = {"authorizations": len(forgotten)} if forgotten else {}
            await self._log.record(conn, caller, "mcp.server.removed", name, data, permission)
        await self._logins.revoke(server, forgotten)

    async def listing(self, caller: Caller, name: str) -> Listing:
        """Ask the server what it offers and compare; what drifted can't be called from now on.

        Raises:
            McpServerNotFound, PolicyDenied.
        """
        server, _ = await self.find(caller, name)
        approved = {
            tool.declaration.mcp.tool: tool
            for tool in await tools.tools_of_server(self._pool, caller.tenant, name)
            if tool.declaration.mcp
        }
        try:
            offer = await self._offer(caller, server)
        except PeerFailed as error:
            kept = [ServerTool(tool, "missing", None, approved[tool]) for tool in sorted(approved)]
            return Listing(server, kept, fault=f"{error.code}: {error.message}")
        names = sorted(offer.tools.keys() | approved.keys())
        compared = [_compare(server, offer, name, approved.get(name)) for name in names]
        for tool in compared:
            if tool.state in ("changed", "invalid") and tool.approved:
                await self.quarantine(caller, tool.approved, tool.fault or "its definition changed")
        return Listing(server, compared, offer.protocol_version)

    async def approve(self, caller: Caller, name: str, pins: Sequence[Pin]) -> list[Tool]:
        """Pin tools as they were shown, all or none.

        Raises:
            McpServerNotFound, PolicyDenied (also: the caller connected the server), McpServerFailed, InvalidTool.
            McpToolChanged: a tool is not what was shown.
        """
        server, permission = await self.find(caller, name, "ApproveMcpTool")
        if not pins:
            raise InvalidTool("names no tool", field="tools")
        try:
            offer = await self._offer(caller, server)
        except PeerFailed as error:
            raise McpServerFailed(f"{error.code}: {error.message}") from error
        wanted = {pin.name: (pin, self._approvable(name, offer, pin)) for pin in pins}
        connection = server.connection
        approved: list[Tool] = []
        async with transaction(self._pool) as conn:
            await store.lock_server(conn, caller.tenant, name)
            now = await store.get_server(conn, caller.tenant, name)
            if now is None or now.connection.digest != connection.digest:
                raise McpToolChanged(f"the connection of {name} was changed meanwhile")
            for pin, definition in sorted(wanted.values(), key=lambda pair: pair[0].name):
                declaration = definition.declaration(
                    name,
                    connection.digest,
                    approver=caller.person,
                    side_effect=pin.side_effect or connection.side_effect,
                    regions=connection.regions,
                )
                await tools.lock_tool(conn, caller.tenant, declaration.name)
                await refuse_other_kind(conn, caller.tenant, declaration)
                put = await tools.put_tool(conn, caller.tenant, declaration)
                await record_declared(self._evidence, conn, caller, put.tool, put.previous, permission)
                approved.append(put.tool)
        return approved

    async def quarantine(self, caller: Caller, tool: Tool, why: str) -> None:
        """Let nobody call the tool until it is approved anew; recorded once."""
        assert tool.declaration.mcp  # noqa: S101
        async with transaction(self._pool) as conn:
            if await tools.quarantine_tool(conn, caller.tenant, tool.declaration.name, why):
                data = {"tool": tool.declaration.name, "approved_digest": tool.declaration.mcp.digest, "why": why}
                await self._log.record(conn, caller, "mcp.tool.quarantined", tool.declaration.mcp.server, data, None)

    async def _offer(self, caller: Caller, server: McpServer) -> Offer:
        async with self._gate.enter(caller.tenant):
            return await self.peer(server).offer(caller, server)

    def _approvable(self, server: str, offer: Offer, pin: Pin) -> Definition:
        definition = offer.tools.get(pin.name)
        if definition is None or pin.name in offer.doubled:
            raise McpToolChanged(f"the server does not offer {pin.name[:64]}, or not only once", field="tools")
        if fault := definition.fault(server):
            raise InvalidTool(f"{pin.name[:64]} can't be approved: {fault}", field="tools")
        if definition.digest != pin.digest:
            raise McpToolChanged(f"{pin.name} is not what was shown: look at it again", field="tools")
        return definition


def _compare(server: McpServer, offer: Offer, name: str, approved: Tool | None) -> ServerTool:
    offered = offer.tools.get(name)
    before = pinned(approved.declaration) if approved else None
    if offered is None:
        return ServerTool(name, "missing", None, approved)
    fault = "the server offers two tools of this name" if name in offer.doubled else offered.fault(server.name)
    if fault:
        return ServerTool(name, "invalid", offered, approved, diff(before, offered), fault)
    if approved is None:
        return ServerTool(name, "new", offered, None, diff(None, offered))
    source = approved.declaration.mcp
    if source and source.digest == offered.digest:
        if source.connection_digest != server.connection.digest:
            return ServerTool(name, "changed", offered, approved, fault="its server is connected in another way now")
        if approved.quarantine:
            return ServerTool(name, "changed", offered, approved, fault=approved.quarantine)
        return ServerTool(name, "approved", offered, approved)
    return ServerTool(name, "changed", offered, approved, diff(before, offered))


def registry_name(server: str, tool: ServerTool) -> str:
    """The tool's name in the registry; empty for one that can't be in it."""
    return "" if tool.state == "invalid" and not tool.approved else tool_name(server, tool.name)


def _recorded(connection: Connection) -> dict[str, Any]:
    """The connection as the audit log has it: files of a program by size only."""
    content = connection.content()
    if stdio := content.get("stdio"):
        stdio["files"] = {name: {"size": len(text.encode())} for name, text in stdio["files"].items()}
    return content


def _resource(caller: Caller, name: str, proposer: str) -> Resource:
    return Resource("McpServer", name, caller.tenant, {"name": name, "proposer": proposer})
