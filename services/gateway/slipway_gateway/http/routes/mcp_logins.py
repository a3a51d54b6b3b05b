"""Logging in to MCP servers: begin, complete, log out."""

from fastapi import Request
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.api import api_router
from slipway_gateway.http.calls import SEARCH_SECONDS
from slipway_gateway.http.mcp_oauth import callback_url, client_metadata_url
from slipway_gateway.http.resources.mcp_logins import (
    BeginMcpLogin,
    CompleteMcpLogin,
    McpAuthorization,
    McpLogin,
    McpLogout,
    authorization,
    begun,
    response,
)
from slipway_gateway.http.route import CallsDep, GatewayDep
from slipway_gateway.http.routes.mcp_servers import ServerName

router = api_router("tools")


@router.post("/mcp-servers/{server}/login", summary="Begin a login to an MCP server")
async def begin_mcp_login(
    server: ServerName, body: BeginMcpLogin, calls: CallsDep, gateway: GatewayDep, request: Request
) -> McpLogin:
    """Finds the authorization server and answers with the address to open; only the caller can complete the login."""
    port = body.loopback_port
    redirect_uri = f"http://127.0.0.1:{port}/callback" if port else callback_url(gateway, request)
    asked = pb.BeginMcpLoginRequest(
        server=server, redirect_uri=redirect_uri, client_metadata_url=client_metadata_url(gateway)
    )
    answer: pb.BeginMcpLoginResponse = await calls.invoke(
        calls.peers.tools.BeginMcpLogin, asked, timeout=SEARCH_SECONDS
    )
    return begun(answer, redirect_uri)


@router.post("/mcp-servers/{server}/login/complete", summary="Complete a login to an MCP server")
async def complete_mcp_login(server: ServerName, body: CompleteMcpLogin, calls: CallsDep) -> McpAuthorization:
    """Redeems the authorization response, once; somebody else's login, or one that is over, is 404."""
    answer: pb.CompleteMcpLoginResponse = await calls.invoke(
        calls.peers.tools.CompleteMcpLogin, response(server, body), timeout=SEARCH_SECONDS
    )
    return authorization(answer.authorization)


@router.post("/mcp-servers/{server}/logout", summary="Log out of an MCP server")
async def log_out_of_mcp_server(server: ServerName, calls: CallsDep) -> McpLogout:
    """Forgets the tokens, and revokes them where the authorization server can."""
    answer: pb.LogOutOfMcpServerResponse = await calls.invoke(
        calls.peers.tools.LogOutOfMcpServer, pb.LogOutOfMcpServerRequest(server=server)
    )
    return McpLogout(revoked=answer.revoked)
