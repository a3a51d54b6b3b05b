"""What is done to Keycloak."""

import json
import time
from typing import cast

from slipway_testkit.servers.keycloak import KeycloakServer

from fault_testing.outages import Outages


def rotate_keys(outages: Outages) -> None:
    """A new signing key goes before the old one, which goes on to verify."""
    _keycloak(outages).admin(
        "POST",
        "/components",
        {
            "name": f"rotated-{time.monotonic_ns()}",
            "providerId": "rsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "config": {"priority": ["200"], "keySize": ["2048"]},
        },
    )


def import_the_realm_again(outages: Outages) -> None:
    """Deletes the realm, and some seconds later imports it as it was at its start: sessions are gone, ids are not."""
    keycloak = _keycloak(outages)
    realm = json.loads(keycloak.realm_file.read_text())
    keycloak.admin("DELETE", "")
    time.sleep(5)
    keycloak.admin("POST", "", realm, realm="")


def _keycloak(outages: Outages) -> KeycloakServer:
    return cast(KeycloakServer, outages.servers["identity"])
