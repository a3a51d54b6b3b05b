"""Signing in at any OpenID provider: authorization code with PKCE, device flow, refresh, revocation.

OAuth 2.0 for native apps (RFC 8252, 7636), device authorization (RFC 8628), revocation (RFC 7009); the command line
is a public client and has no secret.
"""

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

if TYPE_CHECKING:
    import httpx

SCOPE: Final = "openid"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_TIMEOUT: Final = 10.0


class SignInFailedError(Exception):
    """Nobody was signed in; the message is a sentence."""


class ProviderUnreachableError(Exception):
    """The identity provider does not answer."""


@dataclass(frozen=True)
class Tokens:
    """What a sign-in gives. `ends` is in Unix seconds; `refresh` is empty where the provider gives none."""

    access: str
    ends: float
    refresh: str


@dataclass(frozen=True)
class Provider:
    """An OpenID provider's endpoints; empty where it has none."""

    issuer: str
    client_id: str
    token_url: str
    authorization_url: str
    device_url: str
    revocation_url: str


def issuer_of(gateway: str) -> str:
    """Where a gateway's callers sign in: its protected-resource metadata (RFC 9728) tells.

    Raises SignInFailedError, ProviderUnreachableError.
    """
    document = _read(_send("GET", f"{gateway.rstrip('/')}/.well-known/oauth-protected-resource"))
    servers = document.get("authorization_servers")
    if not isinstance(servers, list) or not servers:
        raise SignInFailedError(f"{gateway} does not tell where to sign in: name its identity provider with --issuer")
    return str(servers[0])


def discover(issuer: str, client_id: str) -> Provider:
    """Reads the provider's discovery document. Raises SignInFailedError, ProviderUnreachableError."""
    answer = _send("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
    if answer.status_code != 200:
        raise SignInFailedError(
            f"there is no OpenID provider at {issuer} (HTTP {answer.status_code}): --issuer is the exact `iss` of its "
            "tokens, with Keycloak https://host/realms/REALM"
        )
    document = _read(answer)
    if document.get("issuer") != issuer:
        raise SignInFailedError(
            f"the provider at {issuer} calls itself {document.get('issuer')!r}: use that as --issuer"
        )
    return Provider(
        issuer=issuer,
        client_id=client_id,
        token_url=str(document.get("token_endpoint") or ""),
        authorization_url=str(document.get("authorization_endpoint") or ""),
        device_url=str(document.get("device_authorization_endpoint") or ""),
        revocation_url=str(document.get("revocation_endpoint") or ""),
    )


def by_device(provider: Provider, tell: Callable[[str, str], None]) -> Tokens:
    """Signs in by another device: `tell` is given the address to open and the code to compare.

    Raises SignInFailedError, ProviderUnreachableError.
    """
    if not provider.device_url:
        raise SignInFailedError(f"{provider.issuer} has no device flow: use --browser")
    # Keycloak wants PKCE in this flow as well where the client demands it; others ignore it.
    verifier, proof = _pkce()
    answer = _send("POST", provider.device_url, {"client_id": provider.client_id, "scope": SCOPE, **proof})
    if answer.status_code != 200:
        raise _refusal(answer, "the provider starts no device flow for this client")
    begun = _read(answer)
    tell(str(begun.get("verification_uri_complete") or begun["verification_uri"]), str(begun["user_code"]))
    interval = float(begun.get("interval") or 5)
    ends = time.monotonic() + float(begun["expires_in"])
    while time.monotonic() < ends:
        time.sleep(interval)
        form = {"grant_type": _DEVICE_GRANT, "client_id": provider.client_id, "code_verifier": verifier}
        answer = _send("POST", provider.token_url, form | {"device_code": str(begun["device_code"])})
        if answer.status_code == 200:
            return _tokens(answer)
        error = _error(answer)
        if error == "slow_down":
            interval += 5
        elif error != "authorization_pending":
            raise _refusal(answer, "the sign-in was not approved")
    raise SignInFailedError("nobody signed in in time: start again")


def by_browser(provider: Provider, open_page: Callable[[str], object]) -> Tokens:
    """Signs in by a browser on this machine, which comes back to a port of loopback.

    Raises SignInFailedError, ProviderUnreachableError.
    """
    from slipway_cli.loopback import Listener, NobodyCameError

    (verifier, proof), state = _pkce(), secrets.token_urlsafe(16)
    with Listener() as listener:
        query = {
            "client_id": provider.client_id,
            "redirect_uri": listener.address,
            "response_type": "code",
            "scope": SCOPE,
            "state": state,
            **proof,
        }
        open_page(f"{provider.authorization_url}?{urlencode(query)}")
        try:
            given = listener.wait(state)
        except NobodyCameError:
            raise SignInFailedError("nobody signed in in time: start again, or use --device") from None
    if "code" not in given:
        raise SignInFailedError(f"the provider refused: {given.get('error_description') or given.get('error')}")
    # RFC 9207: an answer of another provider is not for this one.
    if given.get("iss", provider.issuer) != provider.issuer:
        raise SignInFailedError("the browser came back from another identity provider")
    form = {
        "grant_type": "authorization_code",
        "client_id": provider.client_id,
        "code": given["code"],
        "redirect_uri": listener.address,
        "code_verifier": verifier,
    }
    answer = _send("POST", provider.token_url, form)
    if answer.status_code != 200:
        raise _refusal(answer, "the code was refused")
    return _tokens(answer)


def refresh(provider: Provider, token: str) -> Tokens:
    """Fresh tokens. Raises SignInFailedError when the session has ended, ProviderUnreachableError."""
    form = {"grant_type": "refresh_token", "client_id": provider.client_id, "refresh_token": token}
    answer = _send("POST", provider.token_url, form)
    if answer.status_code != 200:
        raise _refusal(answer, "the session has ended")
    fresh = _tokens(answer)
    return fresh if fresh.refresh else Tokens(fresh.access, fresh.ends, token)


def revoke(provider: Provider, token: str) -> None:
    """Ends the session at the provider. Raises SignInFailedError, ProviderUnreachableError."""
    if not provider.revocation_url:
        raise SignInFailedError(f"{provider.issuer} revokes no tokens: sign out there in a browser")
    form = {"client_id": provider.client_id, "token": token, "token_type_hint": "refresh_token"}
    answer = _send("POST", provider.revocation_url, form)
    if answer.status_code != 200:
        raise _refusal(answer, "the provider did not revoke the session")


def _pkce() -> tuple[str, dict[str, str]]:
    """A verifier and what tells the provider of it beforehand (RFC 7636)."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    return verifier, {"code_challenge": challenge, "code_challenge_method": "S256"}


def _send(method: str, url: str, form: dict[str, str] | None = None) -> "httpx.Response":
    import httpx

    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise SignInFailedError(
            f"{url or 'the provider'} is not https: nobody signs in over a line that others can read"
        )
    try:
        # A proxy of the environment is for other hosts than this one.
        beyond = parts.hostname not in _LOOPBACK
        return httpx.request(method, url, data=form, timeout=_TIMEOUT, follow_redirects=False, trust_env=beyond)
    except httpx.TransportError as error:
        raise ProviderUnreachableError(f"{parts.netloc} does not answer: {error}") from error


def _read(answer: "httpx.Response") -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise SignInFailedError(
            f"{answer.request.url.host} answered something else than JSON (HTTP {answer.status_code})"
        )
    return body


def _error(answer: "httpx.Response") -> str:
    return str(_read(answer).get("error", ""))


def _refusal(answer: "httpx.Response", what: str) -> Exception:
    if answer.status_code >= 500:
        return ProviderUnreachableError(f"the identity provider failed: HTTP {answer.status_code}")
    body = _read(answer)
    return SignInFailedError(f"{what}: {body.get('error_description') or body.get('error') or answer.status_code}")


def _tokens(answer: "httpx.Response") -> Tokens:
    body = _read(answer)
    return Tokens(
        access=str(body["access_token"]),
        ends=time.time() + float(body.get("expires_in") or 60),
        refresh=str(body.get("refresh_token") or ""),
    )
