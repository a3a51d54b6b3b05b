"""Logins at the authorization servers of MCP servers."""

from datetime import datetime
from typing import Literal

from pydantic import Field
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Resource, time_of

AuthorizationState = Literal["NONE", "VALID", "LOGIN_REQUIRED"]
_STATES: dict[int, AuthorizationState] = {
    pb.MCP_AUTHORIZATION_STATE_VALID: "VALID",
    pb.MCP_AUTHORIZATION_STATE_LOGIN_REQUIRED: "LOGIN_REQUIRED",
}


class McpAuthorization(Resource):
    """A login at the authorization server of an MCP server. Tokens are never shown."""

    state: AuthorizationState = Field(description="NONE: nobody has logged in; a server may need no login.")
    expire_time: datetime | None = Field(description="Of the access token; null: the server told none.")
    refreshable: bool = Field(description="True: the access token is renewed without a person.")
    per_user: bool = Field(description="True: each person logs in for themselves.")
    authorizer: str | None = Field(description="Who logged in.")
    issuer: str | None
    scopes: list[str]
    missing_scopes: list[str] = Field(description="What the server asked for since; the next login asks for them.")


class BeginMcpLogin(Command):
    """Where the browser comes back to."""

    loopback_port: int | None = Field(
        None, ge=1024, le=65535, description="A port of the person's own machine; absent: the gateway's callback."
    )


class McpLogin(Resource):
    """A login that has begun."""

    authorization_url: str = Field(description="To be opened in a browser.")
    redirect_uri: str
    state: str = Field(description="Comes back with the answer; it belongs to who began the login.")
    issuer: str
    scopes: list[str]
    per_user: bool
    expire_time: datetime | None


class CompleteMcpLogin(Command):
    """The authorization response (RFC 6749, 4.1.2), as the browser brought it back."""

    state: str = Field(min_length=1, max_length=200)
    code: str = Field("", max_length=8192)
    iss: str = Field("", max_length=2048, description="RFC 9207; absent: the authorization server did not tell.")
    error: str = Field("", max_length=200)


class McpLogout(Resource):
    """What became of the tokens, which are forgotten here."""

    revoked: bool = Field(description="True: the authorization server has revoked them.")


def authorization(message: pb.McpAuthorization) -> McpAuthorization:
    """Converts where a login stands."""
    return McpAuthorization(
        state=_STATES.get(message.state, "NONE"),
        expire_time=time_of(message, "expire_time"),
        refreshable=message.refreshable,
        per_user=message.per_user,
        authorizer=message.authorizer or None,
        issuer=message.issuer or None,
        scopes=list(message.scopes),
        missing_scopes=list(message.missing_scopes),
    )


def begun(message: pb.BeginMcpLoginResponse, redirect_uri: str) -> McpLogin:
    """Converts a login that has begun."""
    return McpLogin(
        authorization_url=message.authorization_url,
        redirect_uri=redirect_uri,
        state=message.state,
        issuer=message.issuer,
        scopes=list(message.scopes),
        per_user=message.per_user,
        expire_time=time_of(message, "expire_time"),
    )


def response(server: str, body: CompleteMcpLogin) -> pb.CompleteMcpLoginRequest:
    """Converts an authorization response."""
    return pb.CompleteMcpLoginRequest(server=server, state=body.state, code=body.code, iss=body.iss, error=body.error)
