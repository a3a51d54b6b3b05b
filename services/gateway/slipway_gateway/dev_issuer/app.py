"""HTTP of the development issuer, at Keycloak's paths."""

import base64
import binascii
import html
from collections.abc import Mapping
from urllib.parse import unquote_plus, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from slipway_gateway.dev_issuer.grants import (
    Codes,
    GrantRefused,
    by_client_credentials,
    by_password,
    client_of,
    sign_in_request,
    user_of,
)
from slipway_gateway.dev_issuer.keys import IssuerKey
from slipway_gateway.dev_issuer.tokens import TokenMaker
from slipway_gateway.realm import RealmFile, RealmUser

_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}
_PAGE_HEADERS = _NO_STORE | {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Slipway development sign-in</title></head>
<body style="font-family: sans-serif; margin: 4rem auto; max-width: 22rem">
<h1>Development sign-in</h1>
<p>{message}</p>
<form method="post">
<p><label>User name<br><input name="username" autofocus autocomplete="username"></label></p>
<p><label>Password<br><input name="password" type="password" autocomplete="current-password"></label></p>
<p><button>Sign in</button></p>
</form>
</body></html>
"""


class DevIssuer:
    """Serves one realm: discovery, keys, tokens, sign-in."""

    def __init__(self, realm: RealmFile, key: IssuerKey, issuer: str) -> None:
        self._realm = realm
        self._key = key
        self._issuer = issuer
        self._tokens = TokenMaker(key, issuer)
        self._codes = Codes()

    def app(self) -> Starlette:
        """The ASGI application."""
        base = f"/realms/{self._realm.current().name}"
        return Starlette(
            routes=[
                Route(f"{base}/.well-known/openid-configuration", self._discovery),
                Route(f"{base}/protocol/openid-connect/certs", self._certs),
                Route(f"{base}/protocol/openid-connect/token", self._token, methods=["POST"]),
                Route(f"{base}/protocol/openid-connect/auth", self._sign_in, methods=["GET", "POST"]),
            ],
            exception_handlers={GrantRefused: _refused, HTTPException: _http_error},
        )

    async def _discovery(self, request: Request) -> Response:
        del request
        connect = f"{self._issuer}/protocol/openid-connect"
        return JSONResponse(
            {
                "issuer": self._issuer,
                "authorization_endpoint": f"{connect}/auth",
                "token_endpoint": f"{connect}/token",
                "jwks_uri": f"{connect}/certs",
                "grant_types_supported": ["authorization_code", "client_credentials", "password"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": ["openid", "profile"],
            }
        )

    async def _certs(self, request: Request) -> Response:
        del request
        return JSONResponse({"keys": [self._key.jwk]})

    async def _token(self, request: Request) -> Response:
        form = await _form(request)
        realm = self._realm.current()
        client = client_of(realm, *_client_credentials(request, form))
        nonce, identity = "", False
        match form.get("grant_type"):
            case "password":
                user = by_password(realm, client, form.get("username", ""), form.get("password", ""))
            case "client_credentials":
                user = by_client_credentials(realm, client)
            case "authorization_code":
                identity = True
                user, nonce = self._codes.redeem(
                    realm,
                    client,
                    form.get("code", ""),
                    form.get("code_verifier", ""),
                    form.get("redirect_uri", ""),
                )
            case _:
                raise GrantRefused("unsupported_grant_type", "password, client_credentials or authorization_code")
        answer: dict[str, str | int] = {
            "access_token": self._tokens.access_token(user, client, realm.token_lifespan),
            "expires_in": realm.token_lifespan,
            "token_type": "Bearer",
            "scope": "openid profile",
        }
        if identity or "openid" in form.get("scope", "").split():
            answer["id_token"] = self._tokens.id_token(user, client, realm.token_lifespan, nonce)
        return JSONResponse(answer, headers=_NO_STORE)

    async def _sign_in(self, request: Request) -> Response:
        realm = self._realm.current()
        query = dict(request.query_params)
        wanted = sign_in_request(realm, query)
        if request.method == "GET":
            return _page(f"Signing in to {wanted.client_id}.")
        form = await _form(request)
        try:
            user: RealmUser = user_of(realm, form.get("username", ""), form.get("password", ""))
        except GrantRefused as refusal:
            return _page(refusal.description, 401)
        answer = {"code": self._codes.issue(wanted, user.username), "iss": self._issuer}
        if "state" in query:
            answer["state"] = query["state"]
        separator = "&" if "?" in wanted.redirect_uri else "?"
        return RedirectResponse(f"{wanted.redirect_uri}{separator}{urlencode(answer)}", 303, headers=_NO_STORE)


def _page(message: str, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(message=html.escape(message)), status, headers=_PAGE_HEADERS)


async def _form(request: Request) -> Mapping[str, str]:
    async with request.form(max_files=0, max_fields=20) as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}


def _client_credentials(request: Request, form: Mapping[str, str]) -> tuple[str, str]:
    """From the Authorization header (RFC 6749, 2.3.1: form-encoded within Basic), or else from the form."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_id", ""), form.get("client_secret", "")
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise GrantRefused("invalid_client", "the Authorization header is malformed", 401) from None
    return unquote_plus(name), unquote_plus(secret)


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, GrantRefused)  # noqa: S101 - registered for this class only
    body = {"error": error.error, "error_description": error.description}
    return JSONResponse(body, error.status, headers=_NO_STORE)


async def _http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    return JSONResponse({"error": "invalid_request", "error_description": error.detail}, error.status_code)
