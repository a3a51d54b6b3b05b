"""Access tokens for MCP servers: whose they are, what for, and where they never go. And the official server."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

import pytest
import uvicorn
from mcp.server.mcpserver import MCPServer
from slipway.tools.v1 import tools_pb2 as pb
from slipway_chassis.errors import SlipwayError
from tools_testing.poison import PoisonedServer, respond


class Guarded:
    """An MCP server that wants a token of its issuer, and the issuer; both at paths of the target."""

    def __init__(self, target: Any, name: str) -> None:
        self.target = target
        self.name = name
        self.server = PoisonedServer(target, f"/{name}/mcp")
        self._inner = target.answers[self.server.path]
        target.answers[self.server.path] = self._guard
        self.issuer = f"{target.url}/{name}/issuer"
        self.named_issuer = self.issuer
        self.tokens = 0
        self._answer(f"/.well-known/oauth-protected-resource/{name}/mcp", self._resource)
        self._answer(f"/.well-known/oauth-authorization-server/{name}/issuer", self._metadata)
        self._answer(f"/{name}/token", self._token)

    def _answer(self, path: str, made: Callable[[], dict[str, Any]]) -> None:
        def send(handler: BaseHTTPRequestHandler) -> None:
            respond(handler, json.dumps(made()).encode())

        self.target.answers[path] = send

    def _resource(self) -> dict[str, Any]:
        return {"resource": self.server.url, "authorization_servers": [self.named_issuer]}

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.target.url}/{self.name}/token",
            "response_types_supported": ["code"],
            "grant_types_supported": ["client_credentials"],
        }

    def _token(self) -> dict[str, Any]:
        self.tokens += 1
        return {"access_token": f"token-{self.tokens}", "token_type": "Bearer", "expires_in": 300}

    def _guard(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("authorization") == f"Bearer token-{self.tokens}" and self.tokens:
            self._inner(handler)
            return
        handler.send_response(401)
        handler.send_header("www-authenticate", "Bearer")
        handler.send_header("content-length", "0")
        handler.end_headers()


@pytest.fixture
def guarded(target: Any, unique: Callable[[str], str]) -> Guarded:
    return Guarded(target, unique("vault"))


async def ready(alice: Any, client: Callable[..., Any], name: str, connection: pb.McpConnection) -> Any:
    await alice.call("PutMcpServer", pb.PutMcpServerRequest(server=name, connection=connection))
    listing = await alice.call("ListMcpServerTools", pb.ListMcpServerToolsRequest(server=name))
    pins = [pb.McpToolPin(name=tool.name, digest=tool.digest) for tool in listing.tools]
    if pins:
        bob = client(subject="bob", roles=["reviewer"])
        await bob.call("ApproveMcpTools", pb.ApproveMcpToolsRequest(server=name, tools=pins))
    return listing


def with_oauth(guarded: Guarded, **changes: Any) -> pb.McpConnection:
    fields = {"client_id": "slipway", "client_secret": "secret:ledger-token", "issuer": guarded.issuer, **changes}
    return pb.McpConnection(
        http=pb.McpHttp(url=guarded.server.url, oauth=pb.McpOAuth(**fields)), timeout={"seconds": 30}
    )


async def test_a_token_is_asked_for_this_server_only_and_kept(
    alice: Any, client: Callable[..., Any], guarded: Guarded, target: Any
) -> None:
    listing = await ready(alice, client, guarded.name, with_oauth(guarded))
    assert listing.fault == ""
    assert (await alice.invoke(f"{guarded.name}.lookup", {"order": "A"})).error.code == ""
    [request] = target.to(f"/{guarded.name}/token")
    form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
    assert (form["grant_type"], form["resource"]) == ("client_credentials", guarded.server.url)
    assert request.headers["authorization"].startswith("Basic ")
    for asked in target.to(guarded.server.path):
        assert asked.headers.get("authorization") in (None, "Bearer token-1")

    # The issuer took the token back: another one is asked for.
    guarded.tokens += 1
    assert (await alice.invoke(f"{guarded.name}.lookup", {"order": "A"})).error.code == ""
    assert len(target.to(f"/{guarded.name}/token")) == 2


async def test_credentials_are_sent_to_no_other_issuer(
    alice: Any, client: Callable[..., Any], guarded: Guarded, target: Any
) -> None:
    guarded.named_issuer = f"{target.url}/{guarded.name}/evil"
    metadata = {"issuer": guarded.named_issuer, "token_endpoint": f"{target.url}/{guarded.name}/token"}
    metadata |= {"authorization_endpoint": f"{target.url}/a", "response_types_supported": ["code"]}
    guarded._answer(f"/.well-known/oauth-authorization-server/{guarded.name}/evil", lambda: metadata)
    listing = await ready(alice, client, guarded.name, with_oauth(guarded))
    assert listing.fault.startswith("UNAUTHORIZED")
    assert target.to(f"/{guarded.name}/token") == []


async def test_an_issuer_that_does_not_answer_is_told(alice: Any, client: Callable[..., Any], guarded: Guarded) -> None:
    guarded.target.answers[f"/{guarded.name}/token"] = lambda handler: respond(handler, b"{}", status=400)
    listing = await ready(alice, client, guarded.name, with_oauth(guarded))
    assert listing.fault.startswith("UNAUTHORIZED")
    assert "s3cr3t" not in listing.fault


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"client_id": ""}, "connection.http.oauth.client_id"),
        ({"issuer": "not a url"}, "connection.http.oauth.issuer"),
        ({"scopes": ["two words"]}, "connection.http.oauth.scopes"),
    ],
)
async def test_wrong_credentials_are_refused_with_their_field(
    alice: Any, guarded: Guarded, changes: dict[str, Any], field: str
) -> None:
    request = pb.PutMcpServerRequest(server=guarded.name, connection=with_oauth(guarded, **changes))
    with pytest.raises(SlipwayError) as refused:
        await alice.call("PutMcpServer", request)
    assert [violation.field for violation in refused.value.violations] == [field]


@pytest.fixture(scope="module")
def official() -> Iterator[int]:
    """The official SDK's server, with a tool that has structured output; its port."""
    server = MCPServer("official")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @server.tool()
    def fail() -> str:
        """Fails."""
        raise ValueError("out of stock")

    # Bound and listening before it serves: who connects early waits.
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(server.streamable_http_app(), log_level="error", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1]
    running.should_exit = True
    thread.join(20)
    listening.close()


async def test_the_official_server_is_listed_approved_and_called(
    start_tools: Callable[..., Any], client: Callable[..., Any], official: int
) -> None:
    tools = start_tools(HTTP_ALLOW=f"127.0.0.1:{official}")
    alice = client(target=tools.target)
    connection = pb.McpConnection(http=pb.McpHttp(url=f"http://127.0.0.1:{official}/mcp"), timeout={"seconds": 20})
    await alice.call("PutMcpServer", pb.PutMcpServerRequest(server="official", connection=connection))
    listing = await alice.call("ListMcpServerTools", pb.ListMcpServerToolsRequest(server="official"))
    assert (listing.protocol_version, [tool.name for tool in listing.tools]) == ("2026-07-28", ["add", "fail"])
    pins = [pb.McpToolPin(name=tool.name, digest=tool.digest) for tool in listing.tools]
    bob = client(target=tools.target, subject="bob", roles=["reviewer"])
    await bob.call("ApproveMcpTools", pb.ApproveMcpToolsRequest(server="official", tools=pins))
    answer = await alice.invoke("official.add", {"a": 2, "b": 3})
    assert json.loads(answer.output_json) == {"result": 5}
    failed = await alice.invoke("official.fail")
    assert failed.error.code == "TOOL_ERROR"
    assert "out of stock" in failed.error.message or "fail" in failed.error.message
