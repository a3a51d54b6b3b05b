"""Tokens of MCP servers, sealed, as calls use them: read, renewed before they end, given up when they are refused.

Renewal rotates refresh tokens, so it must happen once: calls of this process share one request, and replicas agree by
a claim on the row. The request goes on when the call that asked for it ends, because its answer replaces a token that
the authorization server has taken back by then.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import Counter
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectErased, SubjectKeys
from slipway_chassis.postgres import transaction
from slipway_chassis.secret_file import SecretFile
from slipway_chassis.telemetry import registry

from slipway_tools.mcp.connection import McpServer
from slipway_tools.mcp.log import McpLog
from slipway_tools.mcp.oauth import store, tokens
from slipway_tools.mcp.oauth.errors import McpLoginFailed, NoAnswer, TokenRefused, login_required
from slipway_tools.mcp.oauth.store import Authorization, Key, Lifetime
from slipway_tools.mcp.oauth.tokens import Grant
from slipway_tools.mcp.oauth.web import OAuthWeb
from slipway_tools.mcp.peer import PeerFailed
from slipway_tools.tool import SECRET_PREFIX

_REFRESH_SECONDS = 10.0
_CLAIM_SECONDS = 15.0
_LOOK_AGAIN_SECONDS = 0.1
# Other errors can be mended without a person, e.g. by the client's right secret (`invalid_client`).
_ENDS_LOGIN = frozenset({"invalid_grant", "invalid_scope", "invalid_target"})
REFRESHES = Counter(
    "slipway_tools_mcp_token_refreshes",
    "Access tokens of MCP servers renewed; outcome is `renewed`, `refused` or `no_answer`",
    ["outcome"],
    registry=registry,
)


@dataclass(frozen=True)
class Held:
    """Tokens that can be used, and which they are."""

    key: Key
    generation: int
    scopes: tuple[str, ...]
    grant: Grant


def key_of(caller: Caller, server: McpServer) -> Key:
    """Whose tokens a caller uses for a server."""
    login = server.connection.login
    return Key(caller.tenant, server.name, caller.person if login and login.per_user else "")


def client_secret(secrets: SecretFile, tenant: str, server: McpServer, grant: Grant) -> str:
    """The client's secret: a declared one as the secrets' file has it now, else what registration gave."""
    login = server.connection.login
    if login is None or not login.client_secret or grant.client.client_id != login.client_id:
        return grant.client.secret
    host = (urlsplit(grant.endpoints.issuer).hostname or "").rstrip(".").lower()
    return secrets.resolve(login.client_secret.removeprefix(SECRET_PREFIX), tenant=tenant, host=host).get_secret_value()


class TokenVault:
    """The tokens of all MCP servers that people have logged in to."""

    def __init__(self, pool: Any, keys: SubjectKeys, secrets: SecretFile, web: OAuthWeb, log: McpLog) -> None:
        self._pool = pool
        self._keys = keys
        self._secrets = secrets
        self._web = web
        self._log = log
        self._refreshing: dict[tuple[Key, int], asyncio.Task[None]] = {}

    async def current(self, caller: Caller, server: McpServer) -> Held | None:
        """The tokens for a call, renewed if need be; None when nobody has logged in.

        Raises:
            PeerFailed: LOGIN_REQUIRED, or the authorization server does not answer.
        """
        row = await self._row(caller, server)
        if row is None:
            return None
        held = await self._open(server, row)
        if not row.due or (not row.refreshable and not row.ended):
            return held
        if not row.refreshable:
            raise login_required(server, "The access token has ended and can't be renewed")
        try:
            return await self.renew(caller, server, held)
        except PeerFailed as error:
            if error.code == "LOGIN_REQUIRED" or row.ended:
                raise
            return held

    async def renew(self, caller: Caller, server: McpServer, held: Held) -> Held:
        """Tokens other than those held: what another call got meanwhile, or new ones.

        Raises:
            PeerFailed: LOGIN_REQUIRED, or the authorization server does not answer.
        """
        while True:
            row = await self._row(caller, server)
            if row is None:
                raise login_required(server, "Somebody logged out")
            if row.generation != held.generation:
                return await self._open(server, row)
            if not row.refreshable:
                await self.give_up(caller, server, held)
                raise login_required(server, "The access token was refused and can't be renewed")
            name = (held.key, held.generation)
            task = self._refreshing.get(name)
            if task is None:
                if not await store.claim_refresh(self._pool, held.key, held.generation, _CLAIM_SECONDS):
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                    continue
                task = asyncio.create_task(self._refresh(caller, server, held))
                self._refreshing[name] = task
                task.add_done_callback(partial(self._forget, name))
            try:
                await asyncio.shield(task)
            except NoAnswer as error:
                message = f"No access token for the MCP server: {error}."
                raise PeerFailed("UNREACHABLE", message, retryable=True) from error
            except (TokenRefused, McpLoginFailed) as error:
                raise login_required(server, "The authorization server renews the login no more") from error

    async def give_up(self, caller: Caller, server: McpServer, held: Held) -> None:
        """Forget tokens that are refused: somebody must log in anew."""
        async with transaction(self._pool) as conn:
            if await store.refuse(conn, held.key, held.generation):
                data = {"issuer": held.grant.endpoints.issuer, "shared": not held.key.subject}
                await self._log.record(conn, caller, "mcp.authorization.lost", server.name, data)

    async def miss(self, held: Held, scopes: Sequence[str]) -> None:
        """Note scopes that the server asked for."""
        await store.miss(self._pool, held.key, held.generation, scopes)

    async def open(self, row: Authorization) -> Grant | None:
        """What is sealed in a row; None when there is nothing, or it was erased with who logged in."""
        if row.sealed is None:
            return None
        try:
            raw = await self._keys.decrypt(self._pool, row.key.tenant, row.authorizer, row.sealed)
        except SubjectErased:
            return None
        return Grant.from_bytes(raw)

    async def close(self) -> None:
        """Wait for requests under way: their answers are in nobody else's hands."""
        await asyncio.gather(*self._refreshing.values(), return_exceptions=True)

    def _forget(self, name: tuple[Key, int], task: asyncio.Task[None]) -> None:
        del self._refreshing[name]
        # Whoever waited is told; when nobody waits any more, that is told in the metrics.
        if not task.cancelled():
            task.exception()

    async def _row(self, caller: Caller, server: McpServer) -> Authorization | None:
        row = await store.get(self._pool, key_of(caller, server))
        return row if row and row.connection_digest == server.connection.digest else None

    async def _open(self, server: McpServer, row: Authorization) -> Held:
        grant = await self.open(row)
        if grant is None:
            raise login_required(server, "The login is over")
        return Held(row.key, row.generation, row.scopes, grant)

    async def _refresh(self, caller: Caller, server: McpServer, held: Held) -> None:
        """Renew claimed tokens. Raises TokenRefused, McpLoginFailed, NoAnswer."""
        grant = held.grant
        try:
            secret = client_secret(self._secrets, held.key.tenant, server, grant)
            form = {"grant_type": "refresh_token", "refresh_token": grant.refresh}
            async with self._web.open(_REFRESH_SECONDS) as web:
                fresh = await tokens.request(web, grant.endpoints, grant.client, secret, form, held.scopes)
            login = server.connection.login
            if not tokens.is_for(fresh.access, grant.endpoints.resource, login.audiences if login else ()):
                raise McpLoginFailed("the renewed token is for somebody else")
            refresh = fresh.refresh or grant.refresh
            renewed = Grant(grant.endpoints, grant.client, fresh.access, refresh)
            if not await self._keep(held, renewed, Lifetime(fresh.scopes, fresh.seconds, bool(refresh))):
                # Somebody logged out meanwhile: what came after that is taken back as well.
                async with self._web.open(_REFRESH_SECONDS) as web:
                    await tokens.revoke(web, renewed, secret)
        except (TokenRefused, McpLoginFailed) as error:
            REFRESHES.labels("refused").inc()
            if isinstance(error, TokenRefused) and error.code not in _ENDS_LOGIN:
                await store.release_refresh(self._pool, held.key, held.generation)
            else:
                await self.give_up(caller, server, held)
            raise
        except BaseException:
            REFRESHES.labels("no_answer").inc()
            await store.release_refresh(self._pool, held.key, held.generation)
            raise
        REFRESHES.labels("renewed").inc()

    async def _keep(self, held: Held, renewed: Grant, lifetime: Lifetime) -> bool:
        """Keep new tokens; False when the login is gone."""
        row = await store.get(self._pool, held.key)
        if row is None:
            return False
        async with transaction(self._pool) as conn:
            sealed = await self._keys.encrypt(conn, held.key.tenant, row.authorizer, renewed.to_bytes())
            await store.renew(conn, held.key, held.generation, sealed, lifetime)
        return True
