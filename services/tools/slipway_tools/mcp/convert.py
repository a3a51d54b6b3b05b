"""Between the contract's messages about MCP servers and the domain's values."""

import json

from slipway.tools.v1 import tools_pb2 as pb

from slipway_tools.convert import duration, seconds, side_effect, side_effect_on_the_wire
from slipway_tools.mcp.connection import Connection, HttpEndpoint, McpServer, OAuth, StdioProgram
from slipway_tools.mcp.servers import Listing, Pin, ServerTool, State, registry_name

_STATES: dict[State, pb.McpToolState.ValueType] = {
    "approved": pb.MCP_TOOL_STATE_APPROVED,
    "new": pb.MCP_TOOL_STATE_NEW,
    "changed": pb.MCP_TOOL_STATE_CHANGED,
    "missing": pb.MCP_TOOL_STATE_MISSING,
    "invalid": pb.MCP_TOOL_STATE_INVALID,
}


def connection(message: pb.McpConnection) -> Connection:
    """The connection that a request asks for."""
    http, stdio = message.http, message.stdio
    oauth = http.oauth
    return Connection(
        http=HttpEndpoint(
            http.url,
            dict(http.headers),
            OAuth(oauth.client_id, oauth.client_secret, oauth.issuer, tuple(oauth.scopes))
            if http.HasField("oauth")
            else None,
        )
        if message.HasField("http")
        else None,
        stdio=StdioProgram(tuple(stdio.command), dict(stdio.files), dict(stdio.environment))
        if message.HasField("stdio")
        else None,
        regions=tuple(message.regions),
        timeout=seconds(message.timeout, message),
        side_effect=side_effect(message.side_effect) or "write",
    )


def server(source: McpServer) -> pb.McpServer:
    """A server on the wire."""
    known = source.connection
    message = pb.McpServer(server=source.name, digest=known.digest, proposer=source.proposer)
    message.create_time.FromDatetime(source.create_time)
    message.update_time.FromDatetime(source.update_time)
    shown = message.connection
    shown.regions.extend(known.regions)
    shown.timeout.CopyFrom(duration(known.timeout))
    shown.side_effect = side_effect_on_the_wire(known.side_effect)
    if http := known.http:
        shown.http.CopyFrom(pb.McpHttp(url=http.url, headers=http.headers))
        if oauth := http.oauth:
            shown.http.oauth.CopyFrom(
                pb.McpOAuth(
                    client_id=oauth.client_id,
                    client_secret=oauth.client_secret,
                    issuer=oauth.issuer,
                    scopes=oauth.scopes,
                )
            )
    if stdio := known.stdio:
        shown.stdio.CopyFrom(pb.McpStdio(command=stdio.command, files=stdio.files, environment=stdio.environment))
    return message


def listing(source: Listing) -> pb.ListMcpServerToolsResponse:
    """What a server offers, on the wire."""
    return pb.ListMcpServerToolsResponse(
        tools=[_tool(source.server.name, one) for one in source.tools],
        protocol_version=source.protocol_version,
        fault=source.fault,
    )


def _tool(server_name: str, source: ServerTool) -> pb.McpServerTool:
    offered, approved = source.offered, source.approved
    message = pb.McpServerTool(
        tool=registry_name(server_name, source),
        name=source.name[:128],
        state=_STATES[source.state],
        digest=offered.digest if offered and source.state != "invalid" else "",
        definition_json=json.dumps(offered.content(), ensure_ascii=False) if offered else "",
        diff=source.diff,
        fault=source.fault,
    )
    if approved and (pinned := approved.declaration.mcp):
        message.approved_digest = pinned.digest
        message.approver = pinned.approver
        message.approve_time.FromDatetime(approved.update_time)
    return message


def pins(request: pb.ApproveMcpToolsRequest) -> list[Pin]:
    """The tools that a request approves."""
    return [Pin(tool.name, tool.digest, side_effect(tool.side_effect)) for tool in request.tools]
