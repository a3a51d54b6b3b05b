"""Tokens that nobody logs in for: client credentials (RFC 6749, 4.4), by the official client."""

from collections import OrderedDict
from urllib.parse import urlsplit

from mcp.client.auth import OAuthFlowError, TokenStorage
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from slipway_chassis.secret_file import SecretFile

from slipway_tools.mcp.connection import HttpEndpoint, McpServer, OAuth
from slipway_tools.mcp.oauth.tokens import is_for
from slipway_tools.tool import SECRET_PREFIX

_KEPT_TOKENS = 1024


class ClientCredentials:
    """Tokens by tenant and connection, for its server and no other (RFC 8707), kept in memory."""

    def __init__(self, secrets: SecretFile) -> None:
        self._secrets = secrets
        self._tokens: OrderedDict[tuple[str, str, str], KeptTokens] = OrderedDict()

    def secret(self, tenant: str, oauth: OAuth) -> str:
        """The client's secret; raises SecretUnavailable."""
        host = (urlsplit(oauth.issuer).hostname or "").rstrip(".").lower()
        name = oauth.client_secret.removeprefix(SECRET_PREFIX)
        return self._secrets.resolve(name, tenant=tenant, host=host).get_secret_value()

    def tokens(self, tenant: str, server: McpServer) -> "KeptTokens":
        """What is kept for a connection; another connection begins anew."""
        http = server.connection.http
        assert http  # noqa: S101
        assert http.oauth  # noqa: S101
        key = (tenant, server.name, server.connection.digest)
        tokens = self._tokens.setdefault(key, KeptTokens(http, http.oauth))
        self._tokens.move_to_end(key)
        if len(self._tokens) > _KEPT_TOKENS:
            self._tokens.popitem(last=False)
        return tokens

    def auth(self, tenant: str, http: HttpEndpoint, tokens: "KeptTokens") -> ClientCredentialsOAuthProvider:
        """What authenticates the requests of an exchange."""
        assert http.oauth  # noqa: S101
        return ClientCredentialsOAuthProvider(
            http.url,
            tokens,
            http.oauth.client_id,
            self.secret(tenant, http.oauth),
            scope=" ".join(http.oauth.scopes) or None,
            issuer=http.oauth.issuer,
        )


class KeptTokens(TokenStorage):
    """The token of one connection."""

    def __init__(self, http: HttpEndpoint, oauth: OAuth) -> None:
        self._http = http
        self._oauth = oauth
        self._token: OAuthToken | None = None

    @property
    def sent(self) -> list[str]:
        """Tokens that are sent."""
        return [self._token.access_token] if self._token else []

    async def get_tokens(self) -> OAuthToken | None:
        """The token."""
        return self._token

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep a token; OAuthFlowError when it is for somebody else."""
        if not is_for(tokens.access_token, self._http.url, self._oauth.audiences):
            raise OAuthFlowError("the token is for another audience")
        self._token = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Nothing: the client is declared."""
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Nothing: the client is declared."""
        del client_info
