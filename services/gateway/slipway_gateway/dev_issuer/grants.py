"""Who gets a token: the password, client-credentials and authorization-code grants (RFC 6749, 7636)."""

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Final

from slipway_gateway.realm import Realm, RealmClient, RealmUser

CODE_SECONDS: Final = 60
MAX_CODES: Final = 1000


class GrantRefused(Exception):
    """No token; `error` is the code of RFC 6749, 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.status = status


@dataclass(frozen=True, slots=True)
class SignIn:
    """A request of a browser to be signed in, with PKCE."""

    client_id: str
    redirect_uri: str
    challenge: str
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """An authorization code that was handed out: for whom, and what must come with it."""

    request: SignIn
    username: str
    ends: float


def client_of(realm: Realm, client_id: str, secret: str) -> RealmClient:
    """The client that asks; a confidential one proves who it is."""
    client = realm.clients.get(client_id)
    if client is None or not client.enabled:
        raise GrantRefused("invalid_client", "there is no such client", 401)
    if not client.public and not _same(client.secret, secret):
        raise GrantRefused("invalid_client", "the client's secret is wrong", 401)
    return client


def by_password(realm: Realm, client: RealmClient, username: str, password: str) -> RealmUser:
    """The development sign-in."""
    if not client.direct_access:
        raise GrantRefused("unauthorized_client", "this client may not use the password grant")
    return user_of(realm, username, password)


def user_of(realm: Realm, username: str, password: str) -> RealmUser:
    """The enabled user with that password; wrong names and wrong passwords look the same."""
    user = realm.user_by_name(username)
    if user is None or not user.password or not _same(user.password, password):
        raise GrantRefused("invalid_grant", "wrong user name or password", 401)
    if not user.enabled:
        raise GrantRefused("invalid_grant", "the account is disabled")
    return user


def by_client_credentials(realm: Realm, client: RealmClient) -> RealmUser:
    """The client's own account."""
    user = realm.service_account(client.client_id) if client.service_account and not client.public else None
    if user is None:
        raise GrantRefused("unauthorized_client", "this client has no account of its own")
    if not user.enabled:
        raise GrantRefused("invalid_grant", "the account is disabled")
    return user


def enabled_user(realm: Realm, username: str) -> RealmUser:
    """The user of a sign-in that goes on, as the realm says now."""
    user = realm.user_by_name(username)
    if user is None or not user.enabled:
        raise GrantRefused("invalid_grant", "the account is disabled")
    return user


class Codes:
    """Authorization codes in memory: each is good once, for a minute."""

    def __init__(self) -> None:
        self._codes: dict[str, Code] = {}

    def issue(self, request: SignIn, username: str) -> str:
        """A code for a user who has just signed in."""
        now = time.monotonic()
        self._codes = {text: code for text, code in self._codes.items() if code.ends > now}
        if len(self._codes) >= MAX_CODES:
            raise GrantRefused("temporarily_unavailable", "too many sign-ins at once", 503)
        text = secrets.token_urlsafe(24)
        self._codes[text] = Code(request, username, now + CODE_SECONDS)
        return text

    def redeem(
        self, realm: Realm, client: RealmClient, text: str, verifier: str, redirect_uri: str
    ) -> tuple[RealmUser, str]:
        """The user of a code and the nonce of the sign-in; a second use finds nothing."""
        code = self._codes.pop(text, None)
        if code is None or code.ends <= time.monotonic() or code.request.client_id != client.client_id:
            raise GrantRefused("invalid_grant", "the code is unknown, used or too old")
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if not _same(code.request.challenge, challenge) or code.request.redirect_uri != redirect_uri:
            raise GrantRefused("invalid_grant", "the code verifier or the redirect URI is wrong")
        return enabled_user(realm, code.username), code.request.nonce


def sign_in_request(realm: Realm, query: dict[str, str]) -> SignIn:
    """What a browser brings, checked before anything is shown. Raises GrantRefused."""
    client = realm.clients.get(query.get("client_id", ""))
    if client is None or not client.enabled or not client.standard_flow or not client.public:
        raise GrantRefused("unauthorized_client", "this client may not sign people in")
    redirect = query.get("redirect_uri", "")
    if not any(_matches(pattern, redirect) for pattern in client.redirect_uris):
        raise GrantRefused("invalid_request", "the redirect URI is not registered for this client")
    if query.get("response_type") != "code":
        raise GrantRefused("unsupported_response_type", "only response_type=code")
    if query.get("code_challenge_method") != "S256" or len(query.get("code_challenge", "")) != 43:
        raise GrantRefused("invalid_request", "PKCE with S256 is required")
    return SignIn(client.client_id, redirect, query["code_challenge"], query.get("nonce", ""))


def _matches(pattern: str, uri: str) -> bool:
    """A registered URI; `http://127.0.0.1/*` also takes any port, as RFC 8252, 7.3 wants for loopback."""
    loopback = "http://127.0.0.1"
    if pattern == f"{loopback}/*":
        authority = uri.removeprefix("http://").partition("/")[0]
        host, _, port = authority.partition(":")
        return uri.startswith("http://") and host == "127.0.0.1" and (not port or port.isdigit())
    return uri.startswith(pattern[:-1]) if pattern.endswith("*") else uri == pattern


def _same(known: str, given: str) -> bool:
    return hmac.compare_digest(known.encode(), given.encode())
