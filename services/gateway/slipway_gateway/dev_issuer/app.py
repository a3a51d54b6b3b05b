"""HTTP of the development issuer, at Keycloak's paths."""

import base64
import binascii
from collections.abc import Mapping
from urllib.parse import unquote_plus, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from slipway_gateway.dev_issuer.grants import (
    Codes,
    GrantRefused,
    by_client_credentials,
    by_password,
    client_of,
    enabled_user,
    sign_in_request,
    user_of,
)
from slipway_gateway.dev_issuer.keys import SigningKeys
from slipway_gateway.dev_issuer.pages import device_page, sign_in_page, told_page
from slipway_gateway.dev_issuer.sessions import (
    DEVICE_INTERVAL,
    DEVICE_SECONDS,
    REFRESH_SECONDS,
    DeviceCodes,
    RefreshTokens,
)
from slipway_gateway.dev_issuer.tokens import TokenMaker
from slipway_gateway.realm import RealmFile, RealmUser

_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class DevIssuer:
    """Serves one realm: discovery, keys, tokens, sign-in."""

    def __init__(self, realm: RealmFile, keys: SigningKeys, issuer: str) -> None:
        self._realm = realm
        self._keys = keys
        self._issuer = issuer
        self._tokens = TokenMaker(keys, issuer)
        self._codes = Codes()
        self._devices = DeviceCodes()
        self._sessions = RefreshTokens()

    def app(self) -> Starlette:
        """The ASGI application."""
        base = f"/realms/{self._realm.current().name}"
        return Starlette(
            routes=[
                Route(f"{base}/.well-known/openid-configuration", self._discovery),
                Route(f"{base}/protocol/openid-connect/certs", self._certs),
                Route(f"{base}/protocol/openid-connect/token", self._token, methods=["POST"]),
                Route(f"{base}/protocol/openid-connect/revoke", self._revoke, methods=["POST"]),
                Route(f"{base}/protocol/openid-connect/auth", self._sign_in, methods=["GET", "POST"]),
                Route(f"{base}/protocol/openid-connect/auth/device", self._device_code, methods=["POST"]),
                Route(f"{base}/device", self._device, methods=["GET", "POST"]),
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
                "device_authorization_endpoint": f"{connect}/auth/device",
                "revocation_endpoint": f"{connect}/revoke",
                "jwks_uri": f"{connect}/certs",
                "grant_types_supported": [
                    "authorization_code",
                    "client_credentials",
                    "password",
                    "refresh_token",
                    _DEVICE_GRANT,
                ],
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
        return JSONResponse({"keys": [key.jwk for key in self._keys.published()]})

    async def _token(self, request: Request) -> Response:
        form = await _form(request)
        realm = self._realm.current()
        client = client_of(realm, *_client_credentials(request, form))
        nonce, identity, session = "", False, ""
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
            case "refresh_token":
                session = form.get("refresh_token", "")
                user = enabled_user(realm, self._sessions.user_of(client, session))
            case grant if grant == _DEVICE_GRANT:
                user = enabled_user(realm, self._devices.redeem(client, form.get("device_code", "")))
            case _:
                raise GrantRefused("unsupported_grant_type", "the discovery document lists `grant_types_supported`")
        answer: dict[str, str | int] = {
            "access_token": self._tokens.access_token(user, client, realm.token_lifespan),
            "expires_in": realm.token_lifespan,
            "token_type": "Bearer",
            "scope": "openid profile",
        }
        if form.get("grant_type") != "client_credentials":
            answer["refresh_token"] = self._sessions.issue(client, user.username, session)
            answer["refresh_expires_in"] = REFRESH_SECONDS
        if identity or "openid" in form.get("scope", "").split():
            answer["id_token"] = self._tokens.id_token(user, client, realm.token_lifespan, nonce)
        return JSONResponse(answer, headers=_NO_STORE)

    async def _sign_in(self, request: Request) -> Response:
        realm = self._realm.current()
        query = dict(request.query_params)
        wanted = sign_in_request(realm, query)
        if request.method == "GET":
            return sign_in_page(f"Signing in to {wanted.client_id}.")
        form = await _form(request)
        try:
            user: RealmUser = user_of(realm, form.get("username", ""), form.get("password", ""))
        except GrantRefused as refusal:
            return sign_in_page(refusal.description, 401)
        answer = {"code": self._codes.issue(wanted, user.username), "iss": self._issuer}
        if "state" in query:
            answer["state"] = query["state"]
        separator = "&" if "?" in wanted.redirect_uri else "?"
        return RedirectResponse(f"{wanted.redirect_uri}{separator}{urlencode(answer)}", 303, headers=_NO_STORE)

    async def _revoke(self, request: Request) -> Response:
        form = await _form(request)
        client = client_of(self._realm.current(), *_client_credentials(request, form))
        self._sessions.revoke(client, form.get("token", ""))
        return Response(headers=_NO_STORE)

    async def _device_code(self, request: Request) -> Response:
        form = await _form(request)
        client = client_of(self._realm.current(), *_client_credentials(request, form))
        device_code, user_code = self._devices.issue(client)
        page = f"{self._issuer}/device"
        answer: dict[str, str | int] = {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={user_code}",
            "expires_in": DEVICE_SECONDS,
            "interval": DEVICE_INTERVAL,
        }
        return JSONResponse(answer, headers=_NO_STORE)

    async def _device(self, request: Request) -> Response:
        code = request.query_params.get("user_code", "")
        if request.method == "GET":
            return device_page("Signing in a device: go on only if you started this yourself.", code)
        form = await _form(request)
        code = form.get("user_code", "")
        try:
            user = user_of(self._realm.current(), form.get("username", ""), form.get("password", ""))
        except GrantRefused as refusal:
            return device_page(refusal.description, code, 401)
        if not self._devices.approve(code, user.username):
            return device_page("the code is unknown, used or too old", code, 400)
        return told_page("The device is signed in; this page can be closed.")


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
