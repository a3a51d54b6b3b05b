"""Sends the access token of a login with the requests of one exchange, to the MCP server's own address and no other."""

from collections.abc import AsyncGenerator

import httpx2
from slipway_chassis.caller import Caller
from slipway_chassis.errors import SlipwayError

from slipway_tools.mcp.connection import McpServer
from slipway_tools.mcp.guarded_http import GuardedTransport
from slipway_tools.mcp.oauth import challenge
from slipway_tools.mcp.oauth.errors import login_required
from slipway_tools.mcp.oauth.vault import Held, TokenVault
from slipway_tools.mcp.peer import PeerFailed


class BearerAuth(httpx2.Auth):
    """Authenticates requests. `sent` are the tokens that were used; the guard's fault tells why an exchange ended."""

    def __init__(self, vault: TokenVault, caller: Caller, server: McpServer) -> None:
        assert server.connection.http  # noqa: S101
        self.sent: list[str] = []
        self.guard: GuardedTransport | None = None
        self._vault = vault
        self._caller = caller
        self._server = server
        self._endpoint = httpx2.URL(server.connection.http.url)
        self._declared = server.connection.http.oauth is not None
        self._held: Held | None = None
        self._renewed = False

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """A request with the token, and once more with a new one when that is refused."""
        if request.url != self._endpoint:
            # A redirect within the origin carries the headers of the request before it.
            request.headers.pop("Authorization", None)
            yield request
            return
        try:
            self._held = self._held or await self._vault.current(self._caller, self._server)
            if self._held is None and self._declared:
                raise login_required(self._server, "Nobody has logged in")
            response = yield self._with_token(request)
            if response.status_code == 401:
                if self._held is None:
                    raise login_required(self._server, "The MCP server wants a login")
                await self._replace(self._held)
                response = yield self._with_token(request)
                if response.status_code == 401:
                    raise self._refused()
            if response.status_code == 403 and self._held is not None:
                await self._look_at_scopes(self._held, response)
        except (PeerFailed, SlipwayError) as error:
            # The client library tells some failures in other words or not at all.
            if self.guard is not None:
                self.guard.fault = self.guard.fault or error
            raise

    def _with_token(self, request: httpx2.Request) -> httpx2.Request:
        if self._held is not None:
            token = self._held.grant.access
            if token not in self.sent:
                self.sent.append(token)
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    async def _replace(self, held: Held) -> None:
        """Take other tokens than those that were refused, once in an exchange."""
        if self._renewed:
            raise self._refused()
        self._renewed = True
        self._held = await self._vault.renew(self._caller, self._server, held)

    def _refused(self) -> PeerFailed:
        """A new token was refused as well. The login is kept: perhaps the server is what is wrong."""
        return login_required(self._server, "The MCP server refuses the access token")

    async def _look_at_scopes(self, held: Held, response: httpx2.Response) -> None:
        """Step up (RFC 6750, 3.1): the next login asks for what is missing."""
        asked = challenge.read(", ".join(response.headers.get_list("www-authenticate")))
        if asked.error != "insufficient_scope":
            return
        await self._vault.miss(held, asked.scopes)
        wanted = " ".join(asked.scopes)
        raise login_required(self._server, f"The MCP server wants more scopes ({wanted[:200]})")
