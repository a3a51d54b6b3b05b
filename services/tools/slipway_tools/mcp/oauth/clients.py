"""As which client Slipway logs in: a registered one, a client id metadata document, or a dynamic registration."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from mcp.client.auth.utils import is_valid_client_metadata_url, should_use_client_metadata_url
from mcp.shared.auth import OAuthClientInformationFull, OAuthMetadata
from pydantic import ValidationError

from slipway_tools.mcp.connection import OAuth
from slipway_tools.mcp.oauth.errors import McpLoginFailed
from slipway_tools.mcp.oauth.web import Web

_METHODS = ("client_secret_basic", "client_secret_post", "none")
NAME = "Slipway"


@dataclass(frozen=True)
class Client:
    """A client. `secret` is one that was issued by registration: a declared one stays in the secrets' file."""

    client_id: str
    secret: str
    method: str

    def authenticate(self, secret: str) -> tuple[dict[str, str], dict[str, str]]:
        """Form fields and headers of a token request (RFC 6749, 2.3.1)."""
        if self.method == "client_secret_basic":
            pair = f"{quote(self.client_id, safe='')}:{quote(secret, safe='')}"
            return {}, {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        if self.method == "client_secret_post":
            return {"client_id": self.client_id, "client_secret": secret}, {}
        return {"client_id": self.client_id}, {}


async def choose(web: Web, server: OAuthMetadata, oauth: OAuth, redirect_uri: str, metadata_url: str) -> Client:
    """The client for a login; raises McpLoginFailed when the authorization server takes none of ours, NoAnswer."""
    if oauth.client_id:
        method = _method(server, with_secret=True) if oauth.client_secret else "none"
        return Client(oauth.client_id, "", method)
    if is_valid_client_metadata_url(metadata_url) and should_use_client_metadata_url(server, metadata_url):
        return Client(metadata_url, "", "none")
    if not server.registration_endpoint:
        raise McpLoginFailed(
            "the authorization server registers no clients: register one there, and name it in `oauth.client_id`"
        )
    return await _register(web, server, redirect_uri)


def document(redirect_uris: list[str], method: str) -> dict[str, Any]:
    """The metadata that a client registers with (RFC 7591, 2)."""
    loopback = all(urlsplit(uri).scheme == "http" for uri in redirect_uris)
    return {
        "client_name": NAME,
        "redirect_uris": redirect_uris,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "application_type": "native" if loopback else "web",
    }


async def _register(web: Web, server: OAuthMetadata, redirect_uri: str) -> Client:
    wanted = document([redirect_uri], _method(server, with_secret=False))
    answer = await web.post_json(str(server.registration_endpoint), wanted)
    if answer.status not in (200, 201) or answer.body is None:
        raise McpLoginFailed(
            f"the authorization server registers no client for us ({answer.status} {_code(answer.body)}): register one "
            "there, and name it in `oauth.client_id`"
        )
    try:
        registered = OAuthClientInformationFull.model_validate(answer.body)
    except ValidationError as error:
        raise McpLoginFailed("the authorization server's registration is none (RFC 7591, 3.2.1)") from error
    secret = registered.client_secret or ""
    method = registered.token_endpoint_auth_method or ("client_secret_basic" if secret else "none")
    if method not in _METHODS or (method != "none" and not secret):
        raise McpLoginFailed("the authorization server registered a client that can't authenticate")
    if not registered.client_id.isprintable() or len(registered.client_id) + len(secret) > 8192:
        raise McpLoginFailed("the authorization server registered a client with an odd id")
    return Client(registered.client_id, secret, method)


def _method(server: OAuthMetadata, *, with_secret: bool) -> str:
    offered = server.token_endpoint_auth_methods_supported
    if offered is None:
        return "client_secret_basic"  # RFC 8414, 2
    usable = [method for method in _METHODS if method in offered and not (with_secret and method == "none")]
    if not usable:
        raise McpLoginFailed("the authorization server takes none of the ways in which we authenticate")
    return usable[0]


def _code(body: Mapping[str, Any] | None) -> str:
    """A server's error code, short and on one line."""
    return repr(str((body or {}).get("error", "no error code"))[:64])
