"""Requests of the OAuth flow: guarded addresses, bounded answers, no redirect followed."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
from slipway_chassis.errors import SlipwayError

from slipway_tools import jsontext
from slipway_tools.address import AllowList, HostUnreachable, checked_addresses
from slipway_tools.declare import url_fault
from slipway_tools.jsontext import InvalidJson
from slipway_tools.mcp.guarded_http import Exceeded, GuardedTransport, client
from slipway_tools.mcp.oauth import challenge
from slipway_tools.mcp.oauth.challenge import Challenge
from slipway_tools.mcp.oauth.errors import McpLoginFailed, NoAnswer

_DOCUMENTS_LIMIT = 256 * 1024  # bytes of all answers of one flow
_PROBE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "slipway", "version": "1"},
    },
}


@dataclass(frozen=True)
class Answer:
    """An answer; `body` is None unless it is a JSON object."""

    status: int
    body: dict[str, Any] | None


class Web:
    """The requests of one flow."""

    def __init__(self, guard: GuardedTransport, http: httpx2.AsyncClient, allowed: AllowList) -> None:
        self._guard = guard
        self._http = http
        self._allowed = allowed

    async def document(self, url: str) -> dict[str, Any] | None:
        """A JSON document; None when the server has none there (a redirect counts as none)."""
        answer = await self._send("GET", url, headers={"Accept": "application/json"})
        return answer.body if answer.status == 200 else None

    async def post_form(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """What a form is answered with."""
        return await self._send("POST", url, data=dict(form), headers={"Accept": "application/json", **headers})

    async def post_json(self, url: str, body: Mapping[str, Any]) -> Answer:
        """What a JSON object is answered with."""
        return await self._send("POST", url, json=dict(body), headers={"Accept": "application/json"})

    async def probe(self, url: str, headers: Mapping[str, str]) -> Challenge:
        """What an MCP server answers to somebody without a token."""
        sent = {"Accept": "application/json, text/event-stream", **headers}
        async with self._streamed("POST", url, json=_PROBE, headers=sent) as response:
            found = ", ".join(response.headers.get_list("www-authenticate"))
            return challenge.read(found) if response.status_code == 401 else Challenge()

    async def check(self, url: str, what: str) -> None:
        """Look at an address that a browser is sent to as at one that is fetched.

        Raises:
            McpLoginFailed: it is no https:// address.
            AddressNotAllowed: it is not public and not allowed.
        """
        parts = urlsplit(url)
        if url_fault(url) or "{" in url:
            raise McpLoginFailed(f"the {what} of the authorization server is no acceptable address")
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        if parts.scheme != "https" and (host, port) not in self._allowed:
            raise McpLoginFailed(f"the {what} of the authorization server is not https://")
        try:
            await checked_addresses(host.rstrip("."), port, self._allowed)
        except HostUnreachable as error:
            raise NoAnswer(f"{host} has no address") from error

    async def _send(self, method: str, url: str, **fields: Any) -> Answer:
        async with self._streamed(method, url, **fields) as response:
            content = await response.aread()
            try:
                body = jsontext.parse(content.decode(), field="body", limit=_DOCUMENTS_LIMIT)
            except (InvalidJson, UnicodeDecodeError):
                body = None
            return Answer(response.status_code, cast("dict[str, Any]", body) if isinstance(body, dict) else None)

    @asynccontextmanager
    async def _streamed(self, method: str, url: str, **fields: Any) -> AsyncGenerator[httpx2.Response]:
        if url_fault(url):
            raise McpLoginFailed("an address that the server names is no acceptable one")
        host = urlsplit(url).hostname or ""
        try:
            async with self._http.stream(method, url, **fields) as response:
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL, Exceeded) as error:
            fault = self._guard.fault
            if isinstance(fault, SlipwayError):
                raise fault from error
            if isinstance(fault, Exceeded) or isinstance(error, Exceeded):
                raise McpLoginFailed(f"{host} answers more than {_DOCUMENTS_LIMIT} bytes, or compressed") from error
            raise NoAnswer(f"{host} does not answer") from error


class OAuthWeb:
    """Opens the requests of a flow."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed
        self._tls = ssl.create_default_context()

    @asynccontextmanager
    async def open(self, seconds: float) -> AsyncGenerator[Web]:
        """A flow that takes at most `seconds`; raises NoAnswer when it takes longer."""
        guard = GuardedTransport(self._allowed, self._tls, _DOCUMENTS_LIMIT)
        try:
            async with asyncio.timeout(seconds), client(guard, {}, None) as http:
                yield Web(guard, http, self._allowed)
        except TimeoutError as error:
            raise NoAnswer(f"no answer within {seconds:g} s") from error
