"""Calls approved tools of MCP servers, as they were approved and not otherwise."""

from typing import Any

from slipway_chassis.caller import Caller

from slipway_tools.errors import ToolQuarantined
from slipway_tools.http_tool import AnswerLost
from slipway_tools.mcp import results
from slipway_tools.mcp.definition import pinned
from slipway_tools.mcp.peer import Drifted, PeerFailed, PinnedCall
from slipway_tools.mcp.servers import McpServers
from slipway_tools.result import ToolFailure, ToolResult
from slipway_tools.tool import Tool


class McpCaller:
    """Performs calls of MCP tools."""

    def __init__(self, servers: McpServers) -> None:
        self._servers = servers

    async def call(self, caller: Caller, tool: Tool, arguments: dict[str, Any]) -> ToolResult:
        """Perform one call.

        Raises:
            ToolQuarantined: the tool or its server is not what was approved; nothing was called.
            SecretUnavailable, AddressNotAllowed, SandboxUnavailable, QueueFull: nothing was called.
            AnswerLost: it may have acted, and may not be repeated.
        """
        declaration = tool.declaration
        source = declaration.mcp
        assert source  # noqa: S101
        if tool.quarantine:
            raise ToolQuarantined(f"{declaration.name} waits for approval: {tool.quarantine}", field="tool")
        server = await self._servers.connected(caller, source.server)
        if server.connection.digest != source.connection_digest:
            raise ToolQuarantined(
                f"{declaration.name} waits for approval: its server is connected in another way now", field="tool"
            )
        evidence = {"mcp_server": source.server, "mcp_tool": source.tool, "mcp_digest": source.digest}
        call = PinnedCall(source.tool, source.digest, pinned(declaration).content(), arguments)
        try:
            reply = await self._servers.peer(server).call(caller, server, call)
        except Drifted as drift:
            if drift.offered is None:
                failure = ToolFailure("TOOL_MISSING", "The MCP server does not offer the tool any more.")
                return ToolResult(failure=failure, evidence=evidence)
            await self._servers.quarantine(caller, tool, "its definition changed")
            raise ToolQuarantined(
                f"{declaration.name} is not what was approved any more: somebody must look at it and approve it anew",
                field="tool",
            ) from drift
        except PeerFailed as error:
            if error.in_doubt and not declaration.repeatable:
                raise AnswerLost(f"{error.message} It may have acted, and asking again could do it twice.") from error
            failure = ToolFailure(error.code, error.message, retryable=error.retryable)
            return ToolResult(failure=failure, evidence=evidence)
        result = results.read(declaration, reply)
        return ToolResult(
            output_json=result.output_json, failure=result.failure, evidence={**evidence, **result.evidence}
        )
