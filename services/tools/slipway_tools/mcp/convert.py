"""Between the contract's messages about MCP servers and the domain's values."""

import json

from slipway.tools.v1 import tools_pb2 as pb

from slipway_tools.convert import duration, seconds, side_effect, side_effect_on_the_wire
from slipway_tools.mcp.connection import Connection, HttpEndpoint, McpServer, OAuth, OAuthGrant, StdioProgram
from slipway_tools.mcp.oauth.logins import BegunLogin, LoginState
from slipway_tools.mcp.oauth.logins import State as AuthorizationState
from slipway_tools.mcp.servers import Listing, Pin, ServerTool, State, registry_name

_STATES: dict[State, pb.McpToolState.ValueType] = {
    "approved": pb.MCP_TOOL_STATE_APPROVED,
    "new": pb.MCP_TOOL_STATE_NEW,
    "changed": pb.MCP_TOOL_STATE_CHANGED,
    "missing": pb.MCP_TOOL_STATE_MISSING,
    "invalid": pb.MCP_TOOL_STATE_INVALID,
}

_AUTHORIZATION_STATES: dict[AuthorizationState, pb.McpAuthorizationState.ValueType] = {
    "none": pb.MCP_AUTHORIZATION_STATE_NONE,
    "valid": pb.MCP_AUTHORIZATION_STATE_VALID,
    "login_required": pb.MCP_AUTHORIZATION_STATE_LOGIN_REQUIRED,
}
_GRANTS: dict[OAuthGrant, pb.McpOAuthGrant.ValueType] = {
    "client_credentials": pb.MCP_O_AUTH_GRANT_CLIENT_CREDENTIALS,
    "authorization_code": pb.MCP_O_AUTH_GRANT_AUTHORIZATION_CODE,
}

_NAMED_GRANTS: dict[pb.McpOAuthGrant.ValueType, OAuthGrant] = {number: grant for grant, number in _GRANTS.items()}


def connection(message: pb.McpConnection) -> Connection:
    """The connection that a request asks for."""
    http, stdio = message.http, message.stdio
    return Connection(
        http=HttpEndpoint(http.url, dict(http.headers), _oauth(http.oauth) if http.HasField("oauth") else None)
        if message.HasField("http")
        else None,
        stdio=StdioProgram(tuple(stdio.command), dict(stdio.files), dict(stdio.environment))
        if message.HasField("stdio")
        else None,
        regions=tuple(message.regions),
        timeout=seconds(message.timeout, message),
        side_effect=side_effect(message.side_effect) or "write",
    )


def _oauth(message: pb.McpOAuth) -> OAuth:
    unset: OAuthGrant = "client_credentials" if message.client_secret else "authorization_code"
    return OAuth(
        message.client_id,
        message.client_secret,
        message.issuer,
        tuple(message.scopes),
        _NAMED_GRANTS.get(message.grant, unset),
        message.per_user,
        tuple(message.audiences),
    )


def begun_login(source: BegunLogin) -> pb.BeginMcpLoginResponse:
    """A login that begins, on the wire."""
    message = pb.BeginMcpLoginResponse(
        authorization_url=source.authorization_url,
        state=source.state,
        issuer=source.issuer,
        scopes=source.scopes,
        per_user=source.per_user,
    )
    message.expire_time.FromDatetime(source.expire_time)
    return message


def authorization(source: LoginState) -> pb.McpAuthorization:
    """Where a login stands, on the wire."""
    message = pb.McpAuthorization(state=_AUTHORIZATION_STATES[source.state], per_user=source.per_user)
    if kept := source.kept:
        message.refreshable, message.authorizer, message.issuer = kept.refreshable, kept.authorizer, kept.issuer
        message.scopes.extend(kept.scopes)
        message.missing_scopes.extend(kept.missing_scopes)
        if kept.expire_time is not None:
            message.expire_time.FromDatetime(kept.expire_time)
    return message


def server(source: McpServer, login: LoginState | None) -> pb.McpServer:
    """A server on the wire, with where its login stands."""
    known = source.connection
    message = pb.McpServer(server=source.name, digest=known.digest, proposer=source.proposer)
    message.create_time.FromDatetime(source.create_time)
    message.update_time.FromDatetime(source.update_time)
    if login is not None:
        message.authorization.CopyFrom(authorization(login))
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
                    grant=_GRANTS[oauth.grant],
                    per_user=oauth.per_user,
                    audiences=oauth.audiences,
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
