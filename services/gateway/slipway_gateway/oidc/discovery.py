"""Fetches the issuer's keys over HTTP: by its discovery document, or from the address that the configuration gives."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx
from slipway_chassis.server_checks.reasons import tls_refusal

from slipway_gateway import strict_json
from slipway_gateway.oidc.jwk import VerificationKey, read_jwks
from slipway_gateway.strict_json import JsonValue

MAX_DOCUMENT_BYTES: Final = 512 * 1024
CA_SETTING: Final = "SLIPWAY_GATEWAY_OIDC_CA_FILE"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def key_fetcher(
    client: httpx.AsyncClient, *, issuer: str, jwks_url: str = ""
) -> Callable[[], Awaitable[Mapping[str, VerificationKey]]]:
    """A function that fetches the keys. No address is ever taken from a token.

    It raises OSError for what may pass, ValueError for an answer that waiting does not mend.
    """

    async def fetch() -> Mapping[str, VerificationKey]:
        address = jwks_url or await _discover(client, issuer)
        keys = read_jwks(await _get(client, address))
        if not keys:
            raise ValueError(f"{address} holds no usable key")
        return keys

    return fetch


async def _discover(client: httpx.AsyncClient, issuer: str) -> str:
    """OpenID Connect Discovery 1.0, 4: the document's `issuer` must be exactly the one asked for."""
    try:
        document = await _get(client, issuer.rstrip("/") + "/.well-known/openid-configuration")
    except ValueError as error:
        raise ValueError(
            f"{error}: is SLIPWAY_GATEWAY_OIDC_ISSUER the issuer's own URL (Keycloak: https://host/realms/REALM)?"
        ) from None
    address = document.get("jwks_uri")
    if document.get("issuer") != issuer:
        raise ValueError(
            f"the provider at {issuer} calls itself {document.get('issuer')!r}: set SLIPWAY_GATEWAY_OIDC_ISSUER to "
            "exactly what stands as `iss` in its tokens, or correct the provider's host name"
        )
    if not isinstance(address, str):
        raise ValueError("the discovery document has no `jwks_uri`")
    return address


def is_trustworthy(url: str) -> bool:
    """Whether an address can be asked for keys or people: https, or http on this very machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    )


async def _get(client: httpx.AsyncClient, address: str) -> Mapping[str, JsonValue]:
    if not is_trustworthy(address):
        raise ValueError(f"{address} is not https")
    try:
        async with client.stream("GET", address, follow_redirects=False, timeout=5.0) as response:
            if response.status_code == 429 or response.status_code >= 500:
                raise OSError(f"{address} answered {response.status_code}")
            if response.status_code != 200:
                raise ValueError(f"{address} answered {response.status_code}")
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise ValueError(f"{address} is larger than {MAX_DOCUMENT_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if refusal := tls_refusal(error, authority=CA_SETTING, plain="write http://"):
            raise ValueError(f"{address}: {refusal}") from None
        raise OSError(f"{address}: {error or type(error).__name__}") from error
    return strict_json.parse_object(bytes(body))
