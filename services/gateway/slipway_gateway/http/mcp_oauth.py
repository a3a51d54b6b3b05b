"""What authorization servers of MCP servers see of the gateway: its callback, and who it is as a client.

The callback changes nothing and knows nothing. A browser that comes to it proves only that somebody was led here, so
what it brought is shown to that person, who takes it to where they began the login; there it counts for them alone.
"""

import json
from html import escape
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.mcp.endpoint import resource_url

CALLBACK_PATH: Final = "/v1/mcp/oauth/callback"
CLIENT_PATH: Final = "/v1/mcp/oauth/client.json"
_MEMBERS: Final = ("state", "code", "iss", "error")
_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}
_PAGE: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Slipway</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 40rem; padding: 0 1rem }}
pre {{ background: #f4f5f7; padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all }}</style>
</head><body>{content}</body></html>"""
_ANSWER: Final = """<h1>One step left</h1>
<p>Paste this line where you began the login (<code>slipway mcp login</code> waits for it):</p><pre>{line}</pre>
<p>Nobody else needs it. If you did not begin this login yourself, or somebody asks you for the line, close this page:
who has it may act with your account.</p>"""
_NOTHING: Final = "<h1>Nothing here</h1><p>An authorization server sends a browser here at the end of a login.</p>"


def callback_url(gateway: Gateway, request: Request) -> str:
    """Where authorization servers send browsers of people whose own machine can't be reached."""
    return resource_url(gateway, request, CALLBACK_PATH)


def client_metadata_url(gateway: Gateway) -> str:
    """The gateway's client id metadata document; empty where others can't fetch it over https."""
    base = gateway.public_url.rstrip("/")
    return base + CLIENT_PATH if base.startswith("https://") else ""


class Callback:
    """ASGI application of the redirect URI."""

    def __init__(self) -> None:
        self.path = CALLBACK_PATH

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Show what the authorization server sent, and nothing else of the address."""
        scope["route"] = self
        query = Request(scope, receive).query_params
        given = {name: query[name] for name in _MEMBERS if query.get(name)}
        line = urlencode(given)
        complete = "state" in given and ("code" in given or "error" in given)
        content = _ANSWER.format(line=escape(line)) if complete else _NOTHING
        page = _PAGE.format(content=content)
        await Response(page, 200 if complete else 400, _HEADERS, "text/html; charset=utf-8")(scope, receive, send)


class ClientMetadata:
    """ASGI application of the client id metadata document: public, and the same for everybody."""

    def __init__(self, gateway: Gateway) -> None:
        self.path = CLIENT_PATH
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer everybody: authorization servers fetch it."""
        scope["route"] = self
        request = Request(scope, receive)
        document = {
            "client_id": resource_url(self._gateway, request, CLIENT_PATH),
            "client_name": "Slipway",
            # On loopback any port is meant (RFC 8252, 7.3).
            "redirect_uris": [callback_url(self._gateway, request), "http://127.0.0.1/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        }
        headers = {"cache-control": "public, max-age=300"}
        await Response(json.dumps(document), headers=headers, media_type="application/json")(scope, receive, send)
