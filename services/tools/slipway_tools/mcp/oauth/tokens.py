"""Token requests: a code or a refresh token for access tokens of one resource (RFC 6749, 7009, 8707)."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from mcp.shared.auth import OAuthToken
from mcp.shared.auth_utils import check_resource_allowed
from pydantic import ValidationError

from slipway_tools.mcp.oauth.challenge import words
from slipway_tools.mcp.oauth.clients import Client
from slipway_tools.mcp.oauth.errors import McpLoginFailed, NoAnswer, TokenRefused
from slipway_tools.mcp.oauth.web import Web

_LONGEST = 16 * 1024  # characters of a token
_LONGEST_LIFE = 366 * 86_400  # seconds


@dataclass(frozen=True)
class Endpoints:
    """Where tokens of one issuer come from, and what they are for. `revocation` is empty where there is none."""

    issuer: str
    token: str
    revocation: str
    resource: str


@dataclass(frozen=True)
class Tokens:
    """What a token request gave. `refresh` is empty, `seconds` None, where the server gives none."""

    access: str
    refresh: str
    seconds: int | None
    scopes: tuple[str, ...]


@dataclass(frozen=True)
class Grant:
    """Tokens with what is needed to use, renew and revoke them; what is sealed."""

    endpoints: Endpoints
    client: Client
    access: str
    refresh: str

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Grant":
        """What `to_bytes` made."""
        fields = json.loads(raw)
        return cls(Endpoints(**fields["endpoints"]), Client(**fields["client"]), fields["access"], fields["refresh"])


async def request(
    web: Web, endpoints: Endpoints, client: Client, secret: str, form: Mapping[str, str], asked: Sequence[str]
) -> Tokens:
    """One token request, for the resource only. `asked` are the scopes in force when the server tells none.

    Raises:
        TokenRefused: with the server's error code.
        McpLoginFailed: the answer is no token response (RFC 6749, 5.1), or a redirect.
        NoAnswer: the server failed.
    """
    fields, headers = client.authenticate(secret)
    answer = await web.post_form(endpoints.token, {**form, "resource": endpoints.resource, **fields}, headers)
    if answer.status >= 500 or answer.status == 429:
        raise NoAnswer(f"the authorization server answers {answer.status}")
    if answer.status in (400, 401, 403):
        raise TokenRefused(str((answer.body or {}).get("error", "no error code"))[:64])
    if answer.status not in (200, 201) or answer.body is None:
        raise McpLoginFailed(f"the token endpoint's answer is no token response ({answer.status})")
    try:
        read = OAuthToken.model_validate(answer.body)
    except ValidationError as error:
        raise McpLoginFailed("the token endpoint's answer is no token response") from error
    refresh = read.refresh_token or ""
    if not _is_token(read.access_token) or (refresh and not _is_token(refresh)):
        raise McpLoginFailed("the token endpoint's answer holds an odd token")
    seconds = None if read.expires_in is None else max(0, min(read.expires_in, _LONGEST_LIFE))
    scopes = tuple(asked) if read.scope is None else words(read.scope.split())
    return Tokens(read.access_token, refresh, seconds, scopes)


async def revoke(web: Web, grant: Grant, secret: str) -> bool:
    """Ask the authorization server to revoke the tokens (RFC 7009); False when it can't or does not."""
    if not grant.endpoints.revocation:
        return False
    fields, headers = grant.client.authenticate(secret)
    hint = "refresh_token" if grant.refresh else "access_token"
    form = {"token": grant.refresh or grant.access, "token_type_hint": hint, **fields}
    answer = await web.post_form(grant.endpoints.revocation, form, headers)
    return answer.status == 200


def is_for(token: str, resource: str, audiences: Sequence[str]) -> bool:
    """Whether a token may be sent to a resource.

    An authorization server that knows no `resource` parameter may give a token for something else, which the MCP
    server could then use there. A JWT says whom it is for; other tokens tell nothing, and are the issuer's business.
    """
    named = _audience(token)
    return named is None or any(one in audiences or _covers(one, resource) for one in named)


def _covers(audience: str, resource: str) -> bool:
    return audience.startswith(("http://", "https://")) and check_resource_allowed(resource, audience)


def _audience(token: str) -> list[str] | None:
    """The `aud` of a JWT; None for a token that is none, or names nobody."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    named: Any = cast("dict[str, Any]", claims).get("aud") if isinstance(claims, dict) else None
    if named is None:
        return None
    return [str(one) for one in cast("list[Any]", named if isinstance(named, list) else [named])]


def _is_token(text: str) -> bool:
    """RFC 6750, 2.1 is narrower than what servers send; what can't be a header is none."""
    return 0 < len(text) <= _LONGEST and all("!" <= character <= "~" for character in text)
