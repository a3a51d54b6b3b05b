"""Servers that are programs: run in the sandbox, afresh for every exchange, with the access of who makes the call."""

import json
from importlib.resources import files
from typing import Any, cast

from slipway_chassis.caller import Caller

from slipway_tools import jsontext
from slipway_tools.mcp.connection import McpServer
from slipway_tools.mcp.definition import TOOLS_LIMIT, Definition
from slipway_tools.mcp.http_peer import quoted
from slipway_tools.mcp.peer import EXCHANGE_LIMIT, Offer, PeerFailed, PinnedCall, Reply, find_pinned
from slipway_tools.python_tool import FetchFile, PythonCall, split_files
from slipway_tools.reach import mcp_program
from slipway_tools.sandboxed_tool import PythonProvider

_BRIDGE = files("slipway_tools.mcp").joinpath("stdio_bridge.py").read_text()


class StdioPeer:
    """Talks to servers in the sandbox."""

    def __init__(self, sandboxes: PythonProvider, fetch: FetchFile) -> None:
        self._sandboxes = sandboxes
        self._fetch = fetch

    async def offer(self, caller: Caller, server: McpServer) -> Offer:
        """The tools that the server offers now; raises PeerFailed."""
        del caller  # files are fetched with the access of the current call
        answer, _ = await self._exchange(server, None)
        return _offer(answer)

    async def call(self, caller: Caller, server: McpServer, call: PinnedCall) -> Reply:
        """Look whether the tool is what was pinned, and call it; raises Drifted, PeerFailed."""
        del caller
        answer, evidence = await self._exchange(server, call)
        offer = _offer(answer)
        find_pinned(offer, call)
        if "error" in answer:
            raise PeerFailed("MCP_ERROR", f"The MCP server answered with an error: {quoted(str(answer['error']))}")
        result = answer.get("result")
        if not isinstance(result, dict):
            raise _garbled()
        return Reply(offer.protocol_version, cast("dict[str, Any]", result), evidence)

    async def _exchange(self, server: McpServer, call: PinnedCall | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run the server with the bridge; its answer, and what is recorded of the sandbox.

        Raises:
            SandboxUnavailable, QueueFull, and what the files' service raises: nothing was run.
            PeerFailed: no answer.
        """
        stdio = server.connection.stdio
        assert stdio  # noqa: S101
        asked = {
            "command": list(stdio.command),
            "environment": dict(stdio.environment),
            "call": {"name": call.tool, "pinned": call.pinned, "arguments": call.arguments} if call else None,
        }
        inline, fetched = split_files(stdio.files)
        program = PythonCall(
            _BRIDGE, json.dumps(asked), server.connection.timeout, inline, fetched, tool=mcp_program(server.name)
        )
        result = await self._sandboxes.python().call(program, self._fetch)
        if failure := result.failure:
            raise PeerFailed(failure.code, failure.message, retryable=failure.retryable)
        answer: Any = jsontext.parse(result.output_json, field="result", limit=EXCHANGE_LIMIT)
        if not isinstance(answer, dict):
            raise _garbled()
        return cast("dict[str, Any]", answer), {**result.evidence, "sandbox": result.sandbox}


def _offer(answer: dict[str, Any]) -> Offer:
    listed = answer.get("tools")
    if not isinstance(listed, list):
        raise _garbled()
    tools: dict[str, Definition] = {}
    doubled: set[str] = set()
    for tool in cast("list[Any]", listed):
        definition = _definition(tool)
        if definition.name in tools:
            doubled.add(definition.name)
        tools[definition.name] = definition
    if len(tools) > TOOLS_LIMIT:
        raise PeerFailed("TOO_MANY_TOOLS", f"The server offers more than {TOOLS_LIMIT} tools.")
    return Offer(str(answer.get("protocol_version"))[:32], tools, frozenset(doubled))


def _definition(tool: Any) -> Definition:
    if not isinstance(tool, dict):
        raise _garbled()
    fields = cast("dict[str, Any]", tool)
    name, description = fields.get("name"), fields.get("description") or ""
    schemas = fields.get("inputSchema"), fields.get("outputSchema")
    if not isinstance(name, str) or not isinstance(description, str) or not isinstance(schemas[0], dict):
        raise _garbled()
    if schemas[1] is not None and not isinstance(schemas[1], dict):
        raise _garbled()
    return Definition(name, description, *cast("tuple[dict[str, Any], dict[str, Any] | None]", schemas))


def _garbled() -> PeerFailed:
    return PeerFailed("MCP_PROTOCOL", "The MCP server does not keep to the protocol.")
