"""Servers reached over streamable HTTP, by the official client: revision 2026-07-28, or the handshake before it.

A connection is made for each exchange and closed after it: nothing that a server keeps in a session can pass from one
caller to another, nothing idles, and there is nothing to reconnect for ever. The caller's own token is never sent.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import mcp_types as types
from mcp import MCPError
from mcp.client import Client
from mcp.client.auth import OAuthFlowError
from mcp.client.streamable_http import streamable_http_client
from pydantic import TypeAdapter
from slipway_chassis.caller import Caller
from slipway_chassis.errors import SlipwayError
from slipway_chassis.secret_file import SecretFile

from slipway_tools.address import AllowList, HostUnreachable
from slipway_tools.hiding import hide
from slipway_tools.mcp.connection import HttpEndpoint, McpServer
from slipway_tools.mcp.definition import TOOLS_LIMIT, Definition
from slipway_tools.mcp.guarded_http import Exceeded, GuardedTransport, client
from slipway_tools.mcp.oauth.bearer import BearerAuth
from slipway_tools.mcp.oauth.client_credentials import ClientCredentials
from slipway_tools.mcp.oauth.vault import TokenVault
from slipway_tools.mcp.peer import Drifted, Offer, PeerFailed, PinnedCall, Reply, find_pinned
from slipway_tools.tool import SECRET_PREFIX

T = TypeVar("T")
Clean = Callable[[str], str]
_PAGES_LIMIT = 32
# What the client library says when there was no whole answer. Servers use the code of a closed connection for errors of
# their own (-32000), so that its words count: those that a server repeats only put the call in doubt.
_NO_ANSWER = frozenset({types.REQUEST_TIMEOUT, types.PARSE_ERROR})
_CLOSED = ("Connection closed", "SSE stream ")
# A gateway's answer: the server behind it may have acted.
_UNKNOWN_OUTCOME = frozenset({502, 504})
_RESULT: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)


class HttpPeer:
    """Talks to servers over HTTP."""

    def __init__(self, allowed: AllowList, secrets: SecretFile, vault: TokenVault) -> None:
        self._allowed = allowed
        self._secrets = secrets
        self._vault = vault
        self._credentials = ClientCredentials(secrets)
        self._tls = ssl.create_default_context()

    def check(self, tenant: str, http: HttpEndpoint) -> str | None:
        """What forbids the endpoint on this machine, or None. Resolves no name: that is done at every request.

        Raises:
            SecretUnavailable: a secret that it refers to is not there.
        """
        self.headers(tenant, http)
        if http.oauth and http.oauth.client_secret:
            self._credentials.secret(tenant, http.oauth)
        url = urlsplit(http.url)
        if url.scheme != "https" and (url.hostname or "", url.port or 80) not in self._allowed:
            return "must be https:// unless SLIPWAY_TOOLS_HTTP_ALLOW names host and port"
        return None

    async def offer(self, caller: Caller, server: McpServer) -> Offer:
        """The tools that the server offers now; raises PeerFailed."""
        access = self._access(caller, server)
        return await self._exchange(server, lambda session: _offer(session, access.clean), access)

    async def call(self, caller: Caller, server: McpServer, call: PinnedCall) -> Reply:
        """Look whether the tool is what was pinned, and call it; raises Drifted, PeerFailed."""
        asked = False
        access = self._access(caller, server)

        async def ask(session: Client) -> Reply:
            nonlocal asked
            offered = await _offer(session, access.clean)
            find_pinned(offered, call)
            asked = True
            request = types.CallToolRequest(
                params=types.CallToolRequestParams(name=call.tool, arguments=call.arguments)
            )
            # Not the client's own call_tool: it checks results with patterns that can take for ever on short texts.
            result = await session.session.send_request(request, _RESULT)
            if isinstance(result, types.InputRequiredResult):
                raise PeerFailed("INPUT_REQUIRED", "The server asks for more input, which nobody here gives.")
            # As it came: made JSON by the library, what is no number would become null.
            shown = result.model_dump(by_alias=True, exclude_none=True, exclude_unset=True)
            return Reply(offered.protocol_version, json.loads(access.clean(json.dumps(shown))))

        try:
            return await self._exchange(server, ask, access)
        except PeerFailed as error:
            in_doubt = error.in_doubt and asked
            raise PeerFailed(error.code, error.message, in_doubt=in_doubt, retryable=error.retryable) from error

    async def _exchange(self, server: McpServer, ask: Callable[[Client], Awaitable[T]], access: "_Access") -> T:
        """Connect, ask, close.

        Raises:
            Drifted, PeerFailed, SecretUnavailable.
        """
        http = server.connection.http
        assert http  # noqa: S101
        guard = GuardedTransport(self._allowed, self._tls)
        if isinstance(access.auth, BearerAuth):
            access.auth.guard = guard
        seconds = server.connection.timeout
        try:
            async with (
                asyncio.timeout(seconds),
                client(guard, access.headers, access.auth) as web,
                _connected(http.url, web) as session,
            ):
                return await ask(session)
        except TimeoutError as error:
            raise PeerFailed("TIMEOUT", f"No answer within {seconds:g} s.", in_doubt=True, retryable=True) from error
        except BaseExceptionGroup as group:
            raise _failure(guard, _first(group), access.clean) from group
        except (Drifted, PeerFailed, SlipwayError):
            raise
        except Exception as error:
            # The client library has no common class of what a server can do to it.
            raise _failure(guard, error, access.clean) from error

    def headers(self, tenant: str, http: HttpEndpoint) -> dict[str, str]:
        """What is sent with every request of a connection; raises SecretUnavailable."""
        host = (urlsplit(http.url).hostname or "").rstrip(".").lower()
        return {
            name: self._secrets.resolve(value.removeprefix(SECRET_PREFIX), tenant=tenant, host=host).get_secret_value()
            if value.startswith(SECRET_PREFIX)
            else value
            for name, value in http.headers.items()
        }

    def _access(self, caller: Caller, server: McpServer) -> "_Access":
        """With what an exchange is authorized."""
        http = server.connection.http
        assert http  # noqa: S101
        headers = self.headers(caller.tenant, http)
        secrets = [headers[name] for name, value in http.headers.items() if value.startswith(SECRET_PREFIX)]
        if server.connection.login:
            bearer = BearerAuth(self._vault, caller, server)
            return _Access(headers, bearer, secrets, lambda: bearer.sent)
        if http.oauth is None:
            return _Access(headers, None, secrets, list)
        tokens = self._credentials.tokens(caller.tenant, server)
        secrets.append(self._credentials.secret(caller.tenant, http.oauth))
        return _Access(headers, self._credentials.auth(caller.tenant, http, tokens), secrets, lambda: tokens.sent)


@dataclass(frozen=True)
class _Access:
    """Headers and authentication of an exchange, and what of them is secret; `tokens` come while it lasts."""

    headers: dict[str, str]
    auth: httpx2.Auth | None
    secrets: list[str]
    tokens: Callable[[], list[str]]

    def clean(self, text: str) -> str:
        """Take out of the server's answers what was sent to it: some echo their requests."""
        return hide(text, [*self.secrets, *self.tokens()])


@asynccontextmanager
async def _connected(url: str, web: Any) -> AsyncGenerator[Client]:
    # What an exchange may carry is bounded below, whatever its form.
    transport = streamable_http_client(url, http_client=web, max_sse_event_size=None)
    async with Client(transport, client_info=types.Implementation(name="slipway", version="1"), cache=None) as session:
        yield session


async def _offer(session: Client, clean: Clean) -> Offer:
    tools: dict[str, Definition] = {}
    doubled: set[str] = set()
    cursor: str | None = None
    for _ in range(_PAGES_LIMIT):
        page = await session.list_tools(cursor=cursor, cache_mode="bypass")
        if len(page.tools) > TOOLS_LIMIT:
            raise PeerFailed("TOO_MANY_TOOLS", f"The server offers more than {TOOLS_LIMIT} tools.")
        for tool in page.tools:
            if tool.name in tools:
                doubled.add(tool.name)
            raw = [tool.name, tool.description or "", tool.input_schema, tool.output_schema]
            tools[tool.name] = Definition(*json.loads(clean(json.dumps(raw))))
        if len(tools) > TOOLS_LIMIT:
            raise PeerFailed("TOO_MANY_TOOLS", f"The server offers more than {TOOLS_LIMIT} tools.")
        cursor = page.next_cursor
        if not cursor:
            return Offer(session.protocol_version, tools, frozenset(doubled))
    raise PeerFailed("TOO_MANY_TOOLS", f"The list of tools has no end within {_PAGES_LIMIT} pages.")


def _first(group: BaseExceptionGroup) -> BaseException:
    """What went wrong first: the library wraps it as often as it has task groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _failure(guard: GuardedTransport, error: BaseException, clean: Clean) -> Exception:
    """What a failed exchange means. Texts of the server are cut and quoted: they are nobody's instruction."""
    if isinstance(error, Drifted | PeerFailed):
        return error
    if isinstance(guard.fault, Exceeded):
        return PeerFailed("OUTPUT_TOO_LARGE", f"Stopped: {guard.fault}.")
    if isinstance(guard.fault, SlipwayError | PeerFailed):
        return guard.fault
    if isinstance(guard.fault, HostUnreachable):
        return PeerFailed("UNREACHABLE", f"{guard.fault}.", retryable=True)
    if isinstance(error, OAuthFlowError):
        return PeerFailed("UNAUTHORIZED", f"No access token for the MCP server ({type(error).__name__}).")
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return PeerFailed("UNREACHABLE", "No connection to the MCP server.", retryable=True)
    if isinstance(error, httpx2.TransportError) or (isinstance(error, MCPError) and _tells_no_answer(error)):
        message = "The connection broke before the answer was whole."
        return PeerFailed("CONNECTION_LOST", message, in_doubt=True, retryable=True)
    if isinstance(error, MCPError):
        message = f"The MCP server answered with error {error.error.code}: {quoted(clean(error.error.message))}"
        return PeerFailed("MCP_ERROR", message, in_doubt=guard.status in _UNKNOWN_OUTCOME)
    message = f"The MCP server does not keep to the protocol ({type(error).__name__})."
    return PeerFailed("MCP_PROTOCOL", message, in_doubt=True)


def _tells_no_answer(error: MCPError) -> bool:
    code = error.error.code
    return code in _NO_ANSWER or (code == types.CONNECTION_CLOSED and error.error.message.startswith(_CLOSED))


def quoted(text: str) -> str:
    """A server's own words, short and on one line."""
    return repr(text[:200])
