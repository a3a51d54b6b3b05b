"""From an MCP server to its authorization server: RFC 9728, then RFC 8414 and OpenID Connect Discovery.

The addresses are tried in the order of MCP's specification; the documents are parsed by the official SDK's models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
)
from mcp.shared.auth import OAuthMetadata, ProtectedResourceMetadata
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url
from pydantic import BaseModel, ValidationError

from slipway_tools.mcp.connection import OAuth
from slipway_tools.mcp.oauth.challenge import words
from slipway_tools.mcp.oauth.errors import McpLoginFailed
from slipway_tools.mcp.oauth.web import Web

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Discovered:
    """Where to log in for a resource. `resource` is what the tokens are for (RFC 8707)."""

    resource: str
    server: OAuthMetadata
    scopes: tuple[str, ...]

    @property
    def issuer(self) -> str:
        """Of the authorization server."""
        return str(self.server.issuer)


async def discover(web: Web, url: str, headers: Mapping[str, str], oauth: OAuth) -> Discovered:
    """Ask the MCP server at `url` where to log in, and the authorization server how.

    Raises:
        McpLoginFailed: the documents are missing or contradict each other, or a login would not be safe.
        AddressNotAllowed, NoAnswer.
    """
    challenge = await web.probe(url, headers)
    metadata = await _resource_metadata(web, url, challenge.resource_metadata)
    resource = str(metadata.resource)
    if not check_resource_allowed(resource_url_from_server_url(url), resource):
        raise McpLoginFailed("the metadata is of another resource than the MCP server (`resource`)")
    issuer = _issuer([str(one) for one in metadata.authorization_servers], oauth.issuer)
    server = await _server_metadata(web, issuer, url)
    await _check_safe(web, server)
    scopes = oauth.scopes or _scopes(challenge.scopes or words(metadata.scopes_supported or ()), server)
    return Discovered(resource, server, scopes)


def _scopes(asked: tuple[str, ...], server: OAuthMetadata) -> tuple[str, ...]:
    """What the MCP server asks for, and a login that lasts where the authorization server has a scope for that."""
    lasting = "offline_access" in (server.scopes_supported or ())
    return words([*asked, "offline_access"]) if asked and lasting else asked


async def _resource_metadata(web: Web, url: str, named: str) -> ProtectedResourceMetadata:
    for candidate in build_protected_resource_metadata_discovery_urls(named or None, url):
        if found := await _read(web, candidate, ProtectedResourceMetadata):
            return found
    raise McpLoginFailed("the MCP server has no protected resource metadata (RFC 9728) that says where to log in")


def _issuer(offered: list[str], declared: str) -> str:
    if not declared:
        return offered[0]
    if declared not in offered:
        raise McpLoginFailed("the MCP server does not name the declared issuer as its authorization server")
    return declared


async def _server_metadata(web: Web, issuer: str, url: str) -> OAuthMetadata:
    for candidate in build_oauth_authorization_server_metadata_discovery_urls(issuer, url):
        if found := await _read(web, candidate, OAuthMetadata):
            if str(found.issuer) != issuer:
                raise McpLoginFailed("the authorization server's metadata is of another issuer (RFC 8414, 3.3)")
            return found
    raise McpLoginFailed("the authorization server has no metadata (RFC 8414, OpenID Connect Discovery)")


async def _check_safe(web: Web, server: OAuthMetadata) -> None:
    if "S256" not in (server.code_challenge_methods_supported or ()):
        raise McpLoginFailed("the authorization server does not announce PKCE with S256")
    if "code" not in server.response_types_supported:
        raise McpLoginFailed("the authorization server does not announce authorization codes")
    await web.check(str(server.authorization_endpoint), "authorization endpoint")
    await web.check(str(server.token_endpoint), "token endpoint")
    if server.registration_endpoint:
        await web.check(str(server.registration_endpoint), "registration endpoint")
    if server.revocation_endpoint:
        await web.check(str(server.revocation_endpoint), "revocation endpoint")


async def _read(web: Web, url: str, model: type[M]) -> M | None:
    """The document; None when there is none. One that is no such document is as wrong as another's."""
    document = await web.document(url)
    if document is None:
        return None
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise McpLoginFailed(f"the document at {url[:200]} is no {model.__name__}") from error
