"""slipway.tools.v1 over gRPC: converts and calls."""

from typing import Any

from slipway.tools.v1 import tools_pb2, tools_pb2_grpc
from slipway_chassis import paging
from slipway_chassis.caller import current_caller

from slipway_tools import convert, openapi
from slipway_tools.cancellation import Cancellation
from slipway_tools.invocation import Invoker
from slipway_tools.mcp import convert as mcp_convert
from slipway_tools.mcp.connection import McpServer
from slipway_tools.mcp.oauth.logins import AuthorizationResponse
from slipway_tools.mcp.servers import McpServers
from slipway_tools.registry import Origin, Registry

_DEFAULT_PAGE, _LONGEST_PAGE = 100, 200
_NEWEST = (1 << 31) - 1


class ToolsServicer(tools_pb2_grpc.ToolsServiceServicer):
    """Registers and invokes tools."""

    def __init__(self, registry: Registry, invoker: Invoker, servers: McpServers, cancellation: Cancellation) -> None:
        self._registry = registry
        self._invoker = invoker
        self._servers = servers
        self._cancellation = cancellation

    async def PutTool(self, request: tools_pb2.PutToolRequest, context: Any) -> tools_pb2.PutToolResponse:
        """Declare a tool."""
        tool, created = await self._registry.put(current_caller(), convert.declaration(request), request.request_id)
        return tools_pb2.PutToolResponse(tool=convert.tool(tool), created=created)

    async def GetTool(self, request: tools_pb2.GetToolRequest, context: Any) -> tools_pb2.GetToolResponse:
        """Answer with one tool."""
        tool, _ = await self._registry.find(current_caller(), request.tool, request.version)
        return tools_pb2.GetToolResponse(tool=convert.tool(tool))

    async def ListTools(self, request: tools_pb2.ListToolsRequest, context: Any) -> tools_pb2.ListToolsResponse:
        """Page through the tools that the caller may read."""
        caller = current_caller()
        size = paging.page_size(request.page_size, _DEFAULT_PAGE, _LONGEST_PAGE)
        fields = paging.decode_token(caller.tenant, "ListTools", request.page_token, (str,))
        tools, after = await self._registry.page(caller, str(fields[0]) if fields else "", size)
        token = paging.encode_token(caller.tenant, "ListTools", after) if after else ""
        return tools_pb2.ListToolsResponse(tools=[convert.tool(tool) for tool in tools], next_page_token=token)

    async def ListToolVersions(
        self, request: tools_pb2.ListToolVersionsRequest, context: Any
    ) -> tools_pb2.ListToolVersionsResponse:
        """Page through a tool's versions."""
        caller = current_caller()
        size = paging.page_size(request.page_size, _DEFAULT_PAGE, _LONGEST_PAGE)
        scope = f"ListToolVersions/{request.tool}"
        fields = paging.decode_token(caller.tenant, scope, request.page_token, (int,))
        before = int(fields[0]) if fields else _NEWEST
        tools, before = await self._registry.versions(caller, request.tool, before, size)
        token = paging.encode_token(caller.tenant, scope, before) if before else ""
        return tools_pb2.ListToolVersionsResponse(tools=[convert.tool(tool) for tool in tools], next_page_token=token)

    async def DescribeTool(
        self, request: tools_pb2.DescribeToolRequest, context: Any
    ) -> tools_pb2.DescribeToolResponse:
        """Answer with a tool and what policy says of a call."""
        caller = current_caller()
        tool, _ = await self._registry.find(caller, request.tool, request.version)
        as_it_is, approved = (
            self._registry.decide_invocation(caller, tool, Origin(request.arguments_tainted, approved=proof))
            for proof in (False, True)
        )
        return tools_pb2.DescribeToolResponse(
            tool=convert.tool(tool),
            allowed=as_it_is.allowed or approved.allowed,
            approval_required=approved.allowed and not as_it_is.allowed,
            policies=[] if as_it_is.allowed else as_it_is.policies,
            policy_digest=as_it_is.digest,
        )

    async def InvokeTool(self, request: tools_pb2.InvokeToolRequest, context: Any) -> tools_pb2.InvokeToolResponse:
        """Perform a tool."""
        answer = await self._invoker.invoke(current_caller(), convert.invocation(request))
        return convert.answer(answer)

    async def CancelInvocation(
        self, request: tools_pb2.CancelInvocationRequest, context: Any
    ) -> tools_pb2.CancelInvocationResponse:
        """Stop a call that the run has under way."""
        stopped = await self._cancellation.cancel(current_caller(), request.effect)
        return tools_pb2.CancelInvocationResponse(stopped=stopped)

    async def ImportOpenApi(
        self, request: tools_pb2.ImportOpenApiRequest, context: Any
    ) -> tools_pb2.ImportOpenApiResponse:
        """Declare a tool for each operation."""
        declarations = openapi.declarations(
            openapi.Import(
                document_json=request.document_json,
                prefix=request.prefix,
                operations=list(request.operations),
                base_url=request.base_url,
                headers=dict(request.headers),
                regions=list(request.regions),
                timeout=convert.seconds(request.timeout, request),
                trusted_output=request.trusted_output,
            )
        )
        tools = await self._registry.put_all(current_caller(), declarations)
        return tools_pb2.ImportOpenApiResponse(tools=[convert.tool(tool) for tool in tools])

    async def PutMcpServer(
        self, request: tools_pb2.PutMcpServerRequest, context: Any
    ) -> tools_pb2.PutMcpServerResponse:
        """Connect an MCP server."""
        connection = mcp_convert.connection(request.connection)
        server, created = await self._servers.put(current_caller(), request.server, connection, request.request_id)
        return tools_pb2.PutMcpServerResponse(server=await self._with_login(server), created=created)

    async def GetMcpServer(
        self, request: tools_pb2.GetMcpServerRequest, context: Any
    ) -> tools_pb2.GetMcpServerResponse:
        """Answer with one MCP server."""
        server, _ = await self._servers.find(current_caller(), request.server)
        return tools_pb2.GetMcpServerResponse(server=await self._with_login(server))

    async def ListMcpServers(
        self, request: tools_pb2.ListMcpServersRequest, context: Any
    ) -> tools_pb2.ListMcpServersResponse:
        """Page through the MCP servers that the caller may read."""
        caller = current_caller()
        size = paging.page_size(request.page_size, _DEFAULT_PAGE, _LONGEST_PAGE)
        fields = paging.decode_token(caller.tenant, "ListMcpServers", request.page_token, (str,))
        servers, after = await self._servers.page(caller, str(fields[0]) if fields else "", size)
        token = paging.encode_token(caller.tenant, "ListMcpServers", after) if after else ""
        logins = await self._servers.logins(caller, servers)
        return tools_pb2.ListMcpServersResponse(
            servers=[mcp_convert.server(server, logins[server.name]) for server in servers], next_page_token=token
        )

    async def DeleteMcpServer(
        self, request: tools_pb2.DeleteMcpServerRequest, context: Any
    ) -> tools_pb2.DeleteMcpServerResponse:
        """Disconnect an MCP server."""
        await self._servers.delete(current_caller(), request.server)
        return tools_pb2.DeleteMcpServerResponse()

    async def ListMcpServerTools(
        self, request: tools_pb2.ListMcpServerToolsRequest, context: Any
    ) -> tools_pb2.ListMcpServerToolsResponse:
        """Ask an MCP server what it offers, beside what was approved."""
        return mcp_convert.listing(await self._servers.listing(current_caller(), request.server))

    async def ApproveMcpTools(
        self, request: tools_pb2.ApproveMcpToolsRequest, context: Any
    ) -> tools_pb2.ApproveMcpToolsResponse:
        """Pin tools as they were shown."""
        approved = await self._servers.approve(current_caller(), request.server, mcp_convert.pins(request))
        return tools_pb2.ApproveMcpToolsResponse(tools=[convert.tool(tool) for tool in approved])

    async def BeginMcpLogin(
        self, request: tools_pb2.BeginMcpLoginRequest, context: Any
    ) -> tools_pb2.BeginMcpLoginResponse:
        """Start a login at the authorization server of an MCP server."""
        begun = await self._servers.begin_login(
            current_caller(), request.server, request.redirect_uri, request.client_metadata_url
        )
        return mcp_convert.begun_login(begun)

    async def CompleteMcpLogin(
        self, request: tools_pb2.CompleteMcpLoginRequest, context: Any
    ) -> tools_pb2.CompleteMcpLoginResponse:
        """Redeem what the authorization server sent back."""
        response = AuthorizationResponse(request.state, request.code, request.iss, request.error)
        state = await self._servers.complete_login(current_caller(), request.server, response)
        return tools_pb2.CompleteMcpLoginResponse(authorization=mcp_convert.authorization(state))

    async def LogOutOfMcpServer(
        self, request: tools_pb2.LogOutOfMcpServerRequest, context: Any
    ) -> tools_pb2.LogOutOfMcpServerResponse:
        """Forget and revoke tokens."""
        revoked = await self._servers.log_out(current_caller(), request.server)
        return tools_pb2.LogOutOfMcpServerResponse(revoked=revoked)

    async def _with_login(self, server: McpServer) -> tools_pb2.McpServer:
        logins = await self._servers.logins(current_caller(), [server])
        return mcp_convert.server(server, logins[server.name])
