"""Tools, and the MCP servers that some of them come from."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slipway_client.models import McpAuthorization, McpLogin, McpServer, McpServerTools, Tool, ToolPolicy, ToolResult
from slipway_client.transport import Transport, listed, read, route

_TOOL_SECONDS = 330.0


class Tools:
    """`/v1/tools`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def put(self, tool: str, declaration: Mapping[str, Any]) -> Tool:
        """Declares an HTTP tool, a Python function, a command or a query."""
        return read(Tool, self._transport.call("PUT", route("tools", tool), json=dict(declaration)))

    def get(self, tool: str, *, version: int = 0) -> Tool:
        """One tool; version 0 is the newest."""
        return read(Tool, self._transport.call("GET", route("tools", tool), params={"version": version or None}))

    def list(self) -> Iterator[Tool]:
        """The tools that the caller may see."""
        return self._transport.pages(route("tools"), "tools", Tool)

    def versions(self, tool: str) -> Iterator[Tool]:
        """A declared tool's versions, newest first."""
        return self._transport.pages(route("tools", tool, "versions"), "tools", Tool)

    def policy(self, tool: str, *, arguments_tainted: bool = False) -> ToolPolicy:
        """What policy says of a call by this caller, without calling."""
        params = {"arguments_tainted": str(arguments_tainted).lower()}
        return read(ToolPolicy, self._transport.call("GET", route("tools", tool, "policy"), params=params))

    def import_openapi(
        self,
        document: Mapping[str, Any],
        prefix: str,
        *,
        operations: Sequence[str] = (),
        base_url: str = "",
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
        trusted_output: bool = False,
        regions: Sequence[str] = (),
    ) -> "list[Tool]":
        """Declares a tool for each operation of an OpenAPI document (or those named), all or none."""
        body = {
            "document": dict(document),
            "prefix": prefix,
            "operations": [*operations],
            "base_url": base_url,
            "headers": dict(headers or {}),
            "timeout_seconds": timeout_seconds,
            "trusted_output": trusted_output,
            "regions": [*regions],
        }
        answer = self._transport.call("POST", route("tools", "import"), json=body)
        return [read(Tool, one) for one in listed(answer, "tools")]

    def invoke(
        self, tool: str, arguments: Mapping[str, Any], *, version: int = 0, arguments_tainted: bool = False
    ) -> ToolResult:
        """Calls a tool. `arguments_tainted`: they derive from what came from outside."""
        body = {"arguments": dict(arguments), "version": version, "arguments_tainted": arguments_tainted}
        answer = self._transport.call("POST", route("tools", tool, "invoke"), json=body, timeout=_TOOL_SECONDS)
        return read(ToolResult, answer)


class McpServers:
    """`/v1/mcp-servers`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def put(self, server: str, connection: Mapping[str, Any]) -> McpServer:
        """Connects an MCP server; its tools wait until somebody else has approved them."""
        return read(McpServer, self._transport.call("PUT", route("mcp-servers", server), json=dict(connection)))

    def get(self, server: str) -> McpServer:
        """One MCP server."""
        return read(McpServer, self._transport.call("GET", route("mcp-servers", server)))

    def list(self) -> Iterator[McpServer]:
        """The MCP servers that the caller may see."""
        return self._transport.pages(route("mcp-servers"), "servers", McpServer)

    def delete(self, server: str) -> None:
        """Disconnects a server and removes its tools."""
        self._transport.call("DELETE", route("mcp-servers", server))

    def tools(self, server: str) -> McpServerTools:
        """What the server offers now, beside what was approved."""
        answer = self._transport.call("GET", route("mcp-servers", server, "tools"), timeout=_TOOL_SECONDS)
        return read(McpServerTools, answer)

    def approve(self, server: str, pins: Mapping[str, str], *, side_effect: str | None = None) -> "list[Tool]":
        """Approves tools as they were shown: digests by the tools' own names. ConflictError when one changed."""
        tools = [{"name": name, "digest": digest, "side_effect": side_effect} for name, digest in pins.items()]
        answer = self._transport.call(
            "POST", route("mcp-servers", server, "approve"), json={"tools": tools}, timeout=_TOOL_SECONDS
        )
        return [read(Tool, one) for one in listed(answer, "tools")]

    def begin_login(self, server: str, *, loopback_port: int | None = None) -> McpLogin:
        """Begins a login; the browser comes back to a port of this machine, or to the gateway's own page."""
        path = route("mcp-servers", server, "login")
        return read(McpLogin, self._transport.call("POST", path, json={"loopback_port": loopback_port}))

    def complete_login(self, server: str, response: Mapping[str, str]) -> McpAuthorization:
        """Completes a login with what the browser brought back: `state`, and `code`, `iss`, `error` if they came."""
        body = {name: response[name] for name in ("state", "code", "iss", "error") if name in response}
        answer = self._transport.call("POST", route("mcp-servers", server, "login", "complete"), json=body)
        return read(McpAuthorization, answer)

    def log_out(self, server: str) -> bool:
        """Forgets the tokens; True when the authorization server has revoked them as well."""
        return bool(self._transport.call("POST", route("mcp-servers", server, "logout"))["revoked"])
