"""MCP servers, what they offer, and what of it was approved."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Page, Resource, json_of, state_name, time_of
from slipway_gateway.http.resources.knowledge import Region
from slipway_gateway.http.resources.mcp_logins import McpAuthorization, authorization
from slipway_gateway.http.resources.tools import (
    Header,
    SideEffect,
    Timeout,
    Tool,
    seconds_of,
    set_timeout,
    side_effect_name,
    side_effect_of,
)

State = Literal["APPROVED", "NEW", "CHANGED", "MISSING", "INVALID"]


OAuthGrant = Literal["client_credentials", "authorization_code"]
_GRANTS: dict[OAuthGrant, pb.McpOAuthGrant.ValueType] = {
    "client_credentials": pb.MCP_O_AUTH_GRANT_CLIENT_CREDENTIALS,
    "authorization_code": pb.MCP_O_AUTH_GRANT_AUTHORIZATION_CODE,
}
_GRANT_NAMES = {number: name for name, number in _GRANTS.items()}
Words = list[Annotated[str, StringConstraints(max_length=256)]]


class McpOAuth(Command):
    """How access tokens for one MCP server are got; the server is the tokens' resource (RFC 8707)."""

    client_id: str = Field("", max_length=256, description="Absent: a client metadata document, or registration.")
    client_secret: str = Field("", max_length=200, description="`secret:NAME`; absent: a public client.")
    issuer: str = Field("", max_length=2048, description="Whose client it is; its credentials go to no other.")
    scopes: Words = Field([], max_length=32, description="Absent: what the server asks for.")
    grant: OAuthGrant | None = Field(
        None, description="Absent: `client_credentials` with a client secret, else `authorization_code`."
    )
    per_user: bool = Field(False, description="Each person logs in for themselves, instead of one for the tenant.")
    audiences: Words = Field([], max_length=32, description="Audiences of tokens that are this server's as well.")


class McpHttp(Command):
    """An endpoint of the streamable HTTP transport."""

    url: str = Field(min_length=1, max_length=2048)
    headers: dict[str, Header] = Field({}, max_length=32, description="Credentials as `secret:NAME`.")
    oauth: McpOAuth | None = None


class McpStdio(Command):
    """A program that speaks MCP over standard input and output; it is run in the sandbox, afresh for each call."""

    command: list[Annotated[str, StringConstraints(max_length=4096)]] = Field(min_length=1, max_length=64)
    files: dict[str, str] = Field({}, max_length=64, description="File ids (`file_…`), or the content itself.")
    environment: dict[str, str] = Field({}, max_length=64, description="No credentials.")


class PutMcpServer(Command):
    """How an MCP server is reached: exactly one of `http` and `stdio`."""

    http: McpHttp | None = None
    stdio: McpStdio | None = None
    regions: list[Region] = Field([], max_length=32)
    timeout_seconds: Timeout = None
    side_effect: SideEffect = Field("write", description="What its tools may do; what it says itself counts nothing.")


class McpServer(Resource):
    """A connected MCP server."""

    server: str
    http: McpHttp | None
    stdio: McpStdio | None
    regions: list[str]
    timeout_seconds: float | None
    side_effect: SideEffect
    digest: str = Field(description="Of the connection; approvals hold for it only.")
    proposer: str = Field(description="Who connected it or changed it last: somebody else approves.")
    create_time: datetime | None
    update_time: datetime | None
    authorization: McpAuthorization | None = Field(description="Where the caller's login stands; null: it takes none.")


class McpServerPage(Page):
    """A page of MCP servers, by name."""

    servers: list[McpServer]


class McpServerTool(Resource):
    """A tool as its server offers it now, beside what was approved."""

    name: str
    tool: str | None = Field(description="Name in the registry.")
    state: State
    digest: str | None = Field(description="Of name, description and schemas as they are offered now.")
    approved_digest: str | None
    definition: JsonValue
    diff: str = Field(description="What approving changes.")
    fault: str | None
    approver: str | None
    approve_time: datetime | None


class McpServerTools(Resource):
    """What a server offers now; `fault` says why it did not answer."""

    tools: list[McpServerTool]
    protocol_version: str | None
    fault: str | None


class McpToolPin(Command):
    """A tool to approve, as it was shown."""

    name: str = Field(min_length=1, max_length=128)
    digest: str = Field(min_length=1, max_length=100)
    side_effect: SideEffect | None = Field(None, description="Absent: the server's.")


class ApproveMcpTools(Command):
    """Tools to approve, all or none."""

    tools: list[McpToolPin] = Field(min_length=1, max_length=256)


class ApprovedMcpTools(Resource):
    """What can be called now."""

    tools: list[Tool]


def connection(body: PutMcpServer) -> pb.McpConnection:
    """Converts a connection."""
    message = pb.McpConnection(regions=body.regions, side_effect=side_effect_of(body.side_effect))
    set_timeout(message, body.timeout_seconds)
    if http := body.http:
        message.http.CopyFrom(pb.McpHttp(url=http.url, headers=http.headers))
        if oauth := http.oauth:
            message.http.oauth.CopyFrom(
                pb.McpOAuth(
                    client_id=oauth.client_id,
                    client_secret=oauth.client_secret,
                    issuer=oauth.issuer,
                    scopes=oauth.scopes,
                    grant=_GRANTS[oauth.grant] if oauth.grant else pb.MCP_O_AUTH_GRANT_UNSPECIFIED,
                    per_user=oauth.per_user,
                    audiences=oauth.audiences,
                )
            )
    if stdio := body.stdio:
        message.stdio.CopyFrom(pb.McpStdio(command=stdio.command, files=stdio.files, environment=stdio.environment))
    return message


def server_resource(message: pb.McpServer) -> McpServer:
    """Converts a server."""
    known = message.connection
    return McpServer(
        server=message.server,
        http=_http(known.http) if known.HasField("http") else None,
        stdio=McpStdio.model_construct(
            command=list(known.stdio.command),
            files=dict(known.stdio.files),
            environment=dict(known.stdio.environment),
        )
        if known.HasField("stdio")
        else None,
        regions=list(known.regions),
        timeout_seconds=seconds_of(known),
        side_effect=side_effect_name(known.side_effect),
        digest=message.digest,
        proposer=message.proposer,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
        authorization=authorization(message.authorization) if message.HasField("authorization") else None,
    )


def _http(message: pb.McpHttp) -> McpHttp:
    oauth = message.oauth
    return McpHttp.model_construct(
        url=message.url,
        headers=dict(message.headers),
        oauth=McpOAuth.model_construct(
            client_id=oauth.client_id,
            client_secret=oauth.client_secret,
            issuer=oauth.issuer,
            scopes=list(oauth.scopes),
            grant=_GRANT_NAMES.get(oauth.grant),
            per_user=oauth.per_user,
            audiences=list(oauth.audiences),
        )
        if message.HasField("oauth")
        else None,
    )


def offered_tool(message: pb.McpServerTool) -> McpServerTool:
    """Converts a tool of a server."""
    return McpServerTool.model_validate(
        {
            "name": message.name,
            "tool": message.tool or None,
            "state": state_name(pb.McpToolState.Name(message.state), "MCP_TOOL_STATE_"),
            "digest": message.digest or None,
            "approved_digest": message.approved_digest or None,
            "definition": json_of(message.definition_json),
            "diff": message.diff,
            "fault": message.fault or None,
            "approver": message.approver or None,
            "approve_time": time_of(message, "approve_time"),
        }
    )


def pin(body: McpToolPin) -> pb.McpToolPin:
    """Converts an approval."""
    return pb.McpToolPin(name=body.name, digest=body.digest, side_effect=side_effect_of(body.side_effect))
