"""The directory that the settings name."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from slipway_gateway.directory import Directory, RealmFileDirectory
from slipway_gateway.keycloak import SCHEMES, KeycloakDirectory, read_source
from slipway_gateway.realm import RealmFile
from slipway_gateway.settings import GatewaySettings


async def open_directory(settings: GatewaySettings, web: httpx.AsyncClient) -> Directory:
    """The directory at DIRECTORY_URL: `realm-file:///path/to/realm.json` or `keycloak+https://host/realms/REALM`.

    A directory that can be asked is tried. Raises ValueError for what is wrong for good; one that is down is
    only logged.
    """
    parts = urlsplit(settings.directory_url)
    if parts.scheme == "realm-file" and parts.path:
        return RealmFileDirectory(RealmFile(Path(unquote(parts.path))))
    if parts.scheme not in SCHEMES:
        raise ValueError(
            "SLIPWAY_GATEWAY_DIRECTORY_URL is not of the form realm-file:///path/to/realm.json or "
            "keycloak+https://host[:port]/realms/REALM?client_id=…"
        )
    source = read_source(
        settings.directory_url,
        subject_claim=settings.oidc_subject_claim,
        tenant_claim=settings.oidc_tenant_claim,
        roles_claim=settings.oidc_roles_claim,
    )
    directory = KeycloakDirectory(web, source, settings.read_directory_secret())
    await directory.try_account()
    return directory
