"""`/mcp`: admission as for every route of the API, then the official server, statelessly.

Each request is served by itself, whichever revision it speaks: no session is kept, so any replica serves any request,
nothing idles, and no session can be taken over. Clients of the older revisions get a session id all the same, so that
a cancellation finds the call that it means.
"""

import json
import secrets
from typing import Any, Final, cast
from urllib.parse import urlsplit

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import INVALID_REQUEST
from slipway_chassis.errors import PermissionDenied, SlipwayError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from slipway_gateway.http.calls import Calls
from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.mcp.exchange import SCOPE_KEY, Exchange, Flight
from slipway_gateway.http.mcp.server import McpTools
from slipway_gateway.http.problems import problem_response
from slipway_gateway.http.rejections import MethodNotAllowed
from slipway_gateway.http.route import StrictRequest, admit, read_json
from slipway_gateway.strict_json import JsonValue

PATH: Final = "/mcp"
METADATA_PATH: Final = "/.well-known/oauth-protected-resource"
_SESSION_HEADER: Final = "mcp-session-id"


_NO_MESSAGE: Final = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": INVALID_REQUEST, "message": "the body is not one JSON-RPC request or notification"},
    }
)


class OriginNotAllowed(PermissionDenied):
    """A page of another site made a browser send the request."""

    reason = "ORIGIN_NOT_ALLOWED"


class McpEndpoint:
    """ASGI application of `/mcp`."""

    def __init__(self, gateway: Gateway) -> None:
        self.path = PATH  # what metrics and spans call the route
        self._gateway = gateway
        self._flight = Flight()
        self._server = McpTools(self._flight).server()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. What is wrong before it is MCP is a problem, as everywhere in the API."""
        scope["route"] = self
        request = StrictRequest(scope, receive)
        try:
            if (response := await self._serve(request, send)) is None:
                return
        except SlipwayError as error:
            response = problem_response(error, PATH)
            if response.status_code == 401:
                hint = f', resource_metadata="{resource_url(self._gateway, request, METADATA_PATH)}{PATH}"'
                response.headers["www-authenticate"] += hint
        await response(scope, receive, send)

    async def _serve(self, request: StrictRequest, send: Send) -> Response | None:
        """Serve, and answer with what is left to be sent (None: all is sent)."""
        admission = await admit(request, self._gateway)
        if admission.refusal is not None:
            return admission.refusal
        self._check_origin(request)
        session = request.headers.get(_SESSION_HEADER, "")
        calls = Calls(self._gateway.peers, self._gateway.tokens, admission.principal)
        exchange = Exchange(self._gateway, calls, session)
        if request.method != "POST":
            # GET would open a stream, and DELETE end a session: there is neither.
            return problem_response(MethodNotAllowed(f"{PATH} takes POST"), PATH, {"allow": "POST"})
        await read_json(request)
        message = _message(request.parsed)
        if message is None:
            return Response(_NO_MESSAGE, 400, headers=dict(admission.headers), media_type="application/json")
        if message.get("method") == "notifications/cancelled":
            params: Any = message.get("params")
            if isinstance(params, dict):
                self._flight.cancel(exchange.key(cast("dict[str, Any]", params).get("requestId")))
            return Response(status_code=202, headers=dict(admission.headers))
        headers = dict(admission.headers)
        if message.get("method") == "initialize":
            headers[_SESSION_HEADER] = secrets.token_hex(16)
        request.scope[SCOPE_KEY] = exchange
        await self._hand_over(request, await request.body(), headers, send)
        return None

    async def _hand_over(self, request: Request, body: bytes, headers: dict[str, str], send: Send) -> None:
        """Let the official server answer; whatever of the call still runs when it is done is cancelled."""
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return waiting.pop() if waiting else await request.receive()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                raw = [(name.encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message.get("headers", []), *raw]
            await send(message)

        manager = StreamableHTTPSessionManager(
            self._server, stateless=True, max_request_body_size=self._gateway.limits.max_body_bytes
        )
        async with manager.run():
            await manager.handle_request(request.scope, receive, send_with_headers)

    def _check_origin(self, request: Request) -> None:
        """A browser says where its page is from: only our own hosts' may ask (DNS rebinding)."""
        origin = request.headers.get("origin")
        hosts = self._gateway.allowed_hosts
        if origin is None or "*" in hosts:
            return
        host = urlsplit(origin).hostname or ""
        if host not in hosts and f"[{host}]" not in hosts:
            raise OriginNotAllowed("the request comes from a page of another site", field="Origin")


class ResourceMetadata:
    """ASGI application of the metadata that tells an MCP client where to get a token (RFC 9728)."""

    def __init__(self, gateway: Gateway) -> None:
        self.path = METADATA_PATH
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer everybody: it is how a client without a token finds the issuer."""
        scope["route"] = self
        request = Request(scope, receive)
        document = {
            "resource": resource_url(self._gateway, request, PATH),
            "resource_name": "Slipway",
            "authorization_servers": [self._gateway.issuer],
            "bearer_methods_supported": ["header"],
        }
        headers = {"cache-control": "public, max-age=300", "access-control-allow-origin": "*"}
        await Response(json.dumps(document), headers=headers, media_type="application/json")(scope, receive, send)


def _message(parsed: JsonValue) -> dict[str, Any] | None:
    """A request or notification of JSON-RPC 2.0; None for anything else, a batch or a response included.

    The official server would answer with what its own parser says.
    """
    if not isinstance(parsed, dict) or parsed.get("jsonrpc") != "2.0" or not isinstance(parsed.get("method"), str):
        return None
    if not isinstance(parsed.get("params", {}), dict):
        return None
    identifier = parsed.get("id", 0)
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        return None
    return cast("dict[str, Any]", parsed)


def resource_url(gateway: Gateway, request: Request, path: str) -> str:
    """An address of this gateway as clients know it: its public one, or the one that was asked (a checked Host)."""
    base = gateway.public_url or f"{request.url.scheme}://{request.headers['host']}"
    return base.rstrip("/") + path
