"""Fetches the issuer's keys over HTTP: by its discovery document, or from the address that the configuration gives."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from slipway_gateway import strict_json
from slipway_gateway.oidc.jwk import VerificationKey, read_jwks
from slipway_gateway.strict_json import JsonValue

MAX_DOCUMENT_BYTES: Final = 512 * 1024
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def key_fetcher(
    client: httpx.AsyncClient, *, issuer: str, jwks_url: str = ""
) -> Callable[[], Awaitable[Mapping[str, VerificationKey]]]:
    """A function that fetches the keys; it raises OSError or ValueError. No address is ever taken from a token."""

    async def fetch() -> Mapping[str, VerificationKey]:
        address = jwks_url or await _discover(client, issuer)
        keys = read_jwks(await _get(client, address))
        if not keys:
            raise ValueError(f"{address} holds no usable key")
        return keys

    return fetch


async def _discover(client: httpx.AsyncClient, issuer: str) -> str:
    """OpenID Connect Discovery 1.0, 4: the document's `issuer` must be exactly the one asked for."""
    document = await _get(client, issuer.rstrip("/") + "/.well-known/openid-configuration")
    address = document.get("jwks_uri")
    if document.get("issuer") != issuer:
        raise ValueError(f"the discovery document is that of {document.get('issuer')!r}, not of {issuer!r}")
    if not isinstance(address, str):
        raise ValueError("the discovery document has no `jwks_uri`")
    return address


async def _get(client: httpx.AsyncClient, address: str) -> Mapping[str, JsonValue]:
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError(f"{address} is not https")
    try:
        async with client.stream("GET", address, follow_redirects=False, timeout=5.0) as response:
            if response.status_code != 200:
                raise ValueError(f"{address} answered {response.status_code}")
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise ValueError(f"{address} is larger than {MAX_DOCUMENT_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(f"{address}: {error or type(error).__name__}") from error
    return strict_json.parse_object(bytes(body))
