"""An authorization server and an MCP server that wants its tokens, with every document in the test's hand."""

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from slipway.tools.v1 import tools_pb2 as pb

from tools_testing.poison import PoisonedServer, respond

REDIRECT = "http://127.0.0.1:4711/callback"
Made = tuple[int, dict[str, Any]]


@dataclass
class Code:
    """What an authorization code stands for."""

    client_id: str
    redirect_uri: str
    challenge: str
    resource: str
    scope: str


@dataclass
class Vault:
    """An MCP server at `/{name}/mcp` and its authorization server at `/{name}/as`; rotation and reuse included."""

    target: Any
    name: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    resource: dict[str, Any] = field(default_factory=dict[str, Any])
    challenge: str = ""
    needed_scope: str = ""
    lifetime: int = 300
    codes: dict[str, Code] = field(default_factory=dict[str, Code])
    access: dict[str, str] = field(default_factory=dict[str, str])
    refresh: dict[str, str] = field(default_factory=dict[str, str])
    reused: bool = False
    made_token: Callable[[], str] = lambda: secrets.token_urlsafe(24)

    def __post_init__(self) -> None:
        self.server = PoisonedServer(self.target, f"/{self.name}/mcp")
        self._inner = self.target.answers[self.server.path]
        self.issuer = f"{self.target.url}/{self.name}/as"
        self.metadata = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "registration_endpoint": f"{self.issuer}/register",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        } | self.metadata
        self.resource = {"resource": self.server.url, "authorization_servers": [self.issuer]} | self.resource
        self.target.answers[self.server.path] = self._guard
        self.answer(f"/.well-known/oauth-protected-resource/{self.name}/mcp", lambda _: (200, self.resource))
        self.answer(f"/.well-known/oauth-authorization-server/{self.name}/as", lambda _: (200, self.metadata))
        self.answer(f"/{self.name}/as/token", self._token)
        self.answer(f"/{self.name}/as/register", self._register)
        self.answer(f"/{self.name}/as/revoke", self._revoke)
        self.target.answers[f"/{self.name}/as/authorize"] = self._authorize

    def answer(self, path: str, made: Callable[[dict[str, str]], Made]) -> None:
        """Answer at a path with what a function makes of the form."""

        def send(handler: BaseHTTPRequestHandler) -> None:
            status, body = made(self.form(path))
            respond(handler, json.dumps(body).encode(), status=status)

        self.target.answers[path] = send

    def form(self, path: str) -> dict[str, str]:
        """The last form that was sent to a path."""
        body = self.target.to(path)[-1].body.decode()
        return {name: values[0] for name, values in parse_qs(body).items()}

    def requests(self, endpoint: str) -> list[Any]:
        """What an endpoint of the authorization server was sent."""
        return self.target.to(f"/{self.name}/as/{endpoint}")

    def connection(self, **oauth: Any) -> pb.McpConnection:
        """A connection; without `oauth` nothing is declared of the login."""
        http = pb.McpHttp(url=self.server.url, oauth=pb.McpOAuth(**oauth) if oauth else None)
        return pb.McpConnection(http=http, timeout={"seconds": 20})

    def browse(self, authorization_url: str) -> dict[str, str]:
        """What a browser comes back with when the person agrees."""
        location = httpx.get(authorization_url, trust_env=False).headers["location"]
        return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    def end_tokens(self) -> None:
        """Let no access token count any more."""
        self.access.clear()

    def _authorize(self, handler: BaseHTTPRequestHandler) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
        code = secrets.token_urlsafe(16)
        self.codes[code] = Code(
            asked["client_id"],
            asked["redirect_uri"],
            asked["code_challenge"],
            asked["resource"],
            asked.get("scope", ""),
        )
        query = urlencode({"code": code, "state": asked["state"], "iss": self.issuer})
        handler.send_response(302)
        handler.send_header("location", f"{asked['redirect_uri']}?{query}")
        handler.send_header("content-length", "0")
        handler.end_headers()

    def _token(self, form: dict[str, str]) -> Made:
        if form.get("resource") != self.server.url:
            return 400, {"error": "invalid_target"}
        if form["grant_type"] == "refresh_token":
            scope = self.refresh.pop(form["refresh_token"], None)
            if scope is None:
                self.reused = True
                self.refresh.clear()
                self.access.clear()
                return 400, {"error": "invalid_grant"}
            return self._issue(scope)
        code = self.codes.pop(form["code"], None)
        hashed = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if code is None or base64.urlsafe_b64encode(hashed).rstrip(b"=").decode() != code.challenge:
            return 400, {"error": "invalid_grant"}
        if form.get("redirect_uri") != code.redirect_uri:
            return 400, {"error": "invalid_grant"}
        return self._issue(code.scope)

    def _issue(self, scope: str) -> Made:
        access, refresh = self.made_token(), secrets.token_urlsafe(24)
        self.access[access] = scope
        self.refresh[refresh] = scope
        tokens = {"access_token": access, "token_type": "bearer", "expires_in": self.lifetime, "refresh_token": refresh}
        return 200, tokens | ({"scope": scope} if scope else {})

    def _register(self, _: dict[str, str]) -> Made:
        asked = json.loads(self.requests("register")[-1].body)
        client = {"client_id": f"client-{secrets.token_hex(4)}", "client_secret": secrets.token_hex(16)}
        return 201, asked | client

    def _revoke(self, form: dict[str, str]) -> Made:
        self.refresh.pop(form["token"], None)
        return 200, {}

    def _guard(self, handler: BaseHTTPRequestHandler) -> None:
        token = (handler.headers.get("authorization") or "").removeprefix("Bearer ")
        scope = self.access.get(token)
        if scope is None:
            self._refuse(handler, 401, self.challenge or "Bearer")
        elif self.needed_scope and self.needed_scope not in scope.split():
            self._refuse(handler, 403, f'Bearer error="insufficient_scope", scope="{self.needed_scope}"')
        else:
            self._inner(handler)

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int, challenge: str) -> None:
        handler.send_response(status)
        handler.send_header("www-authenticate", challenge)
        handler.send_header("content-length", "0")
        handler.end_headers()


async def begin(who: Any, server: str, redirect_uri: str = REDIRECT, client_metadata_url: str = "") -> Any:
    """Begin a login."""
    request = pb.BeginMcpLoginRequest(server=server, redirect_uri=redirect_uri, client_metadata_url=client_metadata_url)
    return await who.call("BeginMcpLogin", request)


async def complete(who: Any, server: str, response: dict[str, str]) -> pb.McpAuthorization:
    """Complete a login."""
    fields = {name: response[name] for name in ("state", "code", "iss", "error") if name in response}
    answer = await who.call("CompleteMcpLogin", pb.CompleteMcpLoginRequest(server=server, **fields))
    return answer.authorization


async def log_in(who: Any, vault: Vault) -> pb.McpAuthorization:
    """A whole login."""
    begun = await begin(who, vault.name)
    return await complete(who, vault.name, vault.browse(begun.authorization_url))


async def connect(who: Any, vault: Vault, **oauth: Any) -> None:
    """Connect the MCP server."""
    request = pb.PutMcpServerRequest(server=vault.name, connection=vault.connection(**oauth))
    await who.call("PutMcpServer", request)


async def approve(who: Any, reviewer: Any, vault: Vault) -> None:
    """Approve what it offers."""
    listing = await who.call("ListMcpServerTools", pb.ListMcpServerToolsRequest(server=vault.name))
    assert listing.fault == ""
    pins = [pb.McpToolPin(name=tool.name, digest=tool.digest) for tool in listing.tools]
    await reviewer.call("ApproveMcpTools", pb.ApproveMcpToolsRequest(server=vault.name, tools=pins))
