"""Logging in to MCP servers and out of them: the authorization-code flow, from its beginning to its tokens.

A login belongs to the person who began it: nobody else can finish it, whatever came back in whose browser. It is taken
out before its answer is looked at, so that no answer can be used twice.
"""

import base64
import hashlib
import json
import secrets as randomness
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from prometheus_client import Counter
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.errors import SlipwayError
from slipway_chassis.logs import get_logger
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import transaction
from slipway_chassis.secret_file import SecretFile
from slipway_chassis.telemetry import registry

from slipway_tools.mcp.connection import McpServer, OAuth
from slipway_tools.mcp.log import McpLog
from slipway_tools.mcp.oauth import clients, store, tokens
from slipway_tools.mcp.oauth.clients import Client
from slipway_tools.mcp.oauth.discovery import Discovered, discover
from slipway_tools.mcp.oauth.errors import (
    McpLoginFailed,
    McpLoginNotFound,
    McpLoginNotNeeded,
    NoAnswer,
    TokenRefused,
    TooManyLogins,
)
from slipway_tools.mcp.oauth.store import Authorization, Lifetime, NewAuthorization, PendingLogin
from slipway_tools.mcp.oauth.tokens import Endpoints, Grant
from slipway_tools.mcp.oauth.vault import TokenVault, client_secret, key_of
from slipway_tools.mcp.oauth.web import OAuthWeb

State = Literal["none", "valid", "login_required"]
_FLOW_SECONDS = 20.0
_REVOKE_SECONDS = 5.0
_LOGIN_SECONDS = 600
_LOGINS_LIMIT = 20
LOGINS = Counter(
    "slipway_tools_mcp_logins",
    "Logins at authorization servers of MCP servers; outcome is `begun`, `completed` or `failed`",
    ["outcome"],
    registry=registry,
)
log = get_logger(__name__)


@dataclass(frozen=True)
class BegunLogin:
    """What to open in a browser, and what will come back."""

    authorization_url: str
    state: str
    issuer: str
    scopes: tuple[str, ...]
    expire_time: datetime
    per_user: bool


@dataclass(frozen=True)
class AuthorizationResponse:
    """What the authorization server sent back; members that it did not send are empty."""

    state: str
    code: str
    iss: str
    error: str


@dataclass(frozen=True)
class LoginState:
    """Where a login stands for a caller. Without `kept` nobody has logged in."""

    state: State
    per_user: bool
    kept: Authorization | None


@dataclass(frozen=True)
class _Pending:
    """What is sealed of a login under way."""

    endpoints: Endpoints
    client: Client
    redirect_uri: str
    verifier: str
    scopes: tuple[str, ...]
    iss_announced: bool

    @classmethod
    def from_bytes(cls, raw: bytes) -> "_Pending":
        fields = json.loads(raw)
        return cls(
            Endpoints(**fields["endpoints"]),
            Client(**fields["client"]),
            fields["redirect_uri"],
            fields["verifier"],
            tuple(fields["scopes"]),
            fields["iss_announced"],
        )


class McpLogins:
    """Begins and completes logins; what policy says is decided before."""

    def __init__(
        self, pool: Any, keys: SubjectKeys, secrets: SecretFile, web: OAuthWeb, vault: TokenVault, log: McpLog
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._secrets = secrets
        self._web = web
        self.vault = vault
        self._log = log

    @classmethod
    def opened(cls, pool: Any, keys: SubjectKeys, secrets: SecretFile, web: OAuthWeb, log: McpLog) -> "McpLogins":
        """With a vault of the same parts."""
        return cls(pool, keys, secrets, web, TokenVault(pool, keys, secrets, web, log), log)

    async def begin(
        self,
        caller: Caller,
        server: McpServer,
        headers: Mapping[str, str],
        redirect_uri: str,
        client_metadata_url: str,
    ) -> BegunLogin:
        """Find out where to log in, as whom, and for what; `headers` are sent to the MCP server.

        Raises:
            McpLoginNotNeeded, McpLoginFailed, TooManyLogins, AddressNotAllowed, SecretUnavailable.
        """
        login, url = _needed(server)
        if await store.count_logins(self._pool, caller.tenant, caller.person) >= _LOGINS_LIMIT:
            raise TooManyLogins(f"{_LOGINS_LIMIT} logins are under way: finish one, or wait ten minutes")
        try:
            async with self._web.open(_FLOW_SECONDS) as web:
                found = await discover(web, url, headers, login)
                client = await clients.choose(web, found.server, login, redirect_uri, client_metadata_url)
        except NoAnswer as error:
            raise McpLoginFailed(f"the login can't begin: {error}") from error
        known = await store.get(self._pool, key_of(caller, server))
        # A step up keeps what was granted and adds what was missing.
        stepping = known and known.connection_digest == server.connection.digest and known.missing_scopes
        scopes = tuple(
            dict.fromkeys([*found.scopes, *(known.scopes + known.missing_scopes if known and stepping else ())])
        )
        return await self._keep(caller, server, found, client, redirect_uri, scopes)

    async def complete(
        self, caller: Caller, server: McpServer, response: AuthorizationResponse, permission: PolicyDecision
    ) -> LoginState:
        """Redeem the authorization code; the login is over, whatever comes of it.

        Raises:
            McpLoginNotFound: the caller has no such login under way.
            McpLoginFailed: it was refused, or the answer is not to be trusted.
        """
        _needed(server)
        digest = _digest(response.state)
        pending = await store.take_login(self._pool, digest, caller.tenant, server.name, caller.person)
        if pending is None:
            raise McpLoginNotFound("no such login of yours is under way: begin anew", field="state")
        try:
            await self._redeem(caller, server, pending, response, permission)
        except (McpLoginFailed, SlipwayError) as error:
            LOGINS.labels("failed").inc()
            async with transaction(self._pool) as conn:
                data = {"reason": error.reason, "message": error.message}
                await self._log.record(conn, caller, "mcp.login.failed", server.name, data, permission)
            raise
        LOGINS.labels("completed").inc()
        state = (await self.states(caller, [server]))[server.name]
        assert state  # noqa: S101
        return state

    async def log_out(self, caller: Caller, server: McpServer, permission: PolicyDecision) -> bool:
        """Forget the caller's tokens (or the tenant's); True when the authorization server has revoked them."""
        async with transaction(self._pool) as conn:
            row = await store.remove(conn, key_of(caller, server))
            if row is not None:
                data = {"issuer": row.issuer, "shared": not row.key.subject}
                await self._log.record(conn, caller, "mcp.authorization.removed", server.name, data, permission)
        return row is not None and await self.revoke(server, [row]) == 1

    async def revoke(self, server: McpServer, rows: Sequence[Authorization]) -> int:
        """Ask authorization servers to revoke tokens that are forgotten here already; how many did in 5 s."""
        revoked = 0
        try:
            async with self._web.open(_REVOKE_SECONDS) as web:
                for row in rows:
                    if grant := await self.vault.open(row):
                        secret = client_secret(self._secrets, row.key.tenant, server, grant)
                        revoked += await tokens.revoke(web, grant, secret)
        except (NoAnswer, SlipwayError) as error:
            log.warning("mcp.revocation.failed", server=server.name, error=type(error).__name__)
        return revoked

    async def states(self, caller: Caller, servers: Sequence[McpServer]) -> dict[str, LoginState | None]:
        """Where the logins for servers stand, by name; None for a server that takes none."""
        keys = {server.name: key_of(caller, server) for server in servers}
        subjects, names = ["", caller.person], list(keys)
        rows = {row.key: row for row in await store.of_servers(self._pool, caller.tenant, subjects, names)}
        return {server.name: _state(server, rows.get(keys[server.name])) for server in servers}

    async def _keep(
        self,
        caller: Caller,
        server: McpServer,
        found: Discovered,
        client: Client,
        redirect_uri: str,
        scopes: tuple[str, ...],
    ) -> BegunLogin:
        metadata = found.server
        endpoints = Endpoints(
            found.issuer, str(metadata.token_endpoint), str(metadata.revocation_endpoint or ""), found.resource
        )
        verifier, state = randomness.token_urlsafe(48), randomness.token_urlsafe(32)
        announced = metadata.authorization_response_iss_parameter_supported is True
        pending = _Pending(endpoints, client, redirect_uri, verifier, scopes, announced)
        async with transaction(self._pool) as conn:
            sealed = await self._keys.encrypt(conn, caller.tenant, caller.person, json.dumps(asdict(pending)).encode())
            login = PendingLogin(caller.tenant, server.name, caller.person, server.connection.digest, sealed)
            expire_time = await store.begin_login(conn, _digest(state), login, _LOGIN_SECONDS)
        LOGINS.labels("begun").inc()
        return BegunLogin(
            _authorization_url(str(metadata.authorization_endpoint), pending, state),
            state,
            found.issuer,
            scopes,
            expire_time,
            bool(server.connection.login and server.connection.login.per_user),
        )

    async def _redeem(
        self,
        caller: Caller,
        server: McpServer,
        login: PendingLogin,
        response: AuthorizationResponse,
        permission: PolicyDecision,
    ) -> None:
        if login.connection_digest != server.connection.digest:
            raise McpLoginFailed("the connection was changed since the login began")
        pending = _Pending.from_bytes(await self._keys.decrypt(self._pool, caller.tenant, caller.person, login.sealed))
        endpoints, client = pending.endpoints, pending.client
        # RFC 9207, 2.4: before anything else of the answer is used, an error included.
        if response.iss != endpoints.issuer and (response.iss or pending.iss_announced):
            raise McpLoginFailed("the answer is not of the authorization server that was asked (RFC 9207)")
        if response.error or not response.code:
            raise McpLoginFailed(f"the authorization server refused: {response.error[:64]!r}")
        form = {
            "grant_type": "authorization_code",
            "code": response.code,
            "redirect_uri": pending.redirect_uri,
            "code_verifier": pending.verifier,
        }
        bare = Grant(endpoints, client, "", "")
        try:
            async with self._web.open(_FLOW_SECONDS) as web:
                secret = client_secret(self._secrets, caller.tenant, server, bare)
                got = await tokens.request(web, endpoints, client, secret, form, pending.scopes)
        except TokenRefused as error:
            raise McpLoginFailed(f"the authorization server refused the code: {error.code!r}") from error
        except NoAnswer as error:
            raise McpLoginFailed(f"no tokens: {error}") from error
        settings, _ = _needed(server)
        if not tokens.is_for(got.access, endpoints.resource, settings.audiences):
            raise McpLoginFailed(
                f"the authorization server gave a token for somebody else than {endpoints.resource}: let it honour "
                "`resource` (RFC 8707), or declare the server's own audience in `oauth.audiences`"
            )
        grant = Grant(endpoints, client, got.access, got.refresh)
        key = key_of(caller, server)
        async with transaction(self._pool) as conn:
            sealed = await self._keys.encrypt(conn, caller.tenant, caller.person, grant.to_bytes())
            lifetime = Lifetime(got.scopes, got.seconds, bool(got.refresh))
            digest = server.connection.digest
            await store.put(conn, NewAuthorization(key, digest, endpoints.issuer, caller.person, sealed, lifetime))
            data = {
                "issuer": endpoints.issuer,
                "resource": endpoints.resource,
                "client_id": client.client_id,
                "scopes": list(got.scopes),
                "shared": not key.subject,
                "refreshable": bool(got.refresh),
            }
            await self._log.record(conn, caller, "mcp.authorization.granted", server.name, data, permission)


def _needed(server: McpServer) -> tuple[OAuth, str]:
    login, http = server.connection.login, server.connection.http
    if login is None or http is None:
        raise McpLoginNotNeeded(f"{server.name} takes no login", field="server")
    return login, http.url


def _state(server: McpServer, row: Authorization | None) -> LoginState | None:
    login = server.connection.login
    if login is None:
        return None
    if row is None or row.connection_digest != server.connection.digest:
        return LoginState("none", login.per_user, None)
    over = row.sealed is None or row.missing_scopes or (row.ended and not row.refreshable)
    return LoginState("login_required" if over else "valid", login.per_user, row)


def _authorization_url(endpoint: str, pending: _Pending, state: str) -> str:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(pending.verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": pending.client.client_id,
        "redirect_uri": pending.redirect_uri,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "resource": pending.endpoints.resource,
    }
    if pending.scopes:
        query["scope"] = " ".join(pending.scopes)
    if "offline_access" in pending.scopes:
        query["prompt"] = "consent"  # OpenID Connect Core, 11
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"


def _digest(state: str) -> bytes:
    return hashlib.sha256(state.encode()).digest()
