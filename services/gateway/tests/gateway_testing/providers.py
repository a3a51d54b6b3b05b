"""The identity providers that the gateway's contract is held against, and what a test does to them."""

import json
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
from slipway_gateway.dev_issuer.keys import SigningKeys
from slipway_testkit.servers.keycloak import KeycloakServer

CI_SECRET = "development-only"


class Provider(Protocol):
    """One of them, with the realm of the repository."""

    issuer: str

    @property
    def settings(self) -> dict[str, str]:
        """The gateway's settings for it."""
        ...

    def change_user(self, user_id: str, *, enabled: bool = True, roles: list[str] | None = None) -> None:
        """What an administrator does; `roles` are all that the user has afterwards."""
        ...

    def rotate(self) -> None:
        """Another key signs from now on; the one before stays published."""
        ...

    def frozen(self) -> Any:
        """A context in which it takes connections and never answers."""
        ...


def token_request(provider: Provider, **form: str) -> httpx.Response:
    """Asks the provider's token endpoint."""
    return httpx.post(f"{provider.issuer}/protocol/openid-connect/token", data=form, trust_env=False, timeout=30)


def token_of(provider: Provider, username: str) -> str:
    """A user's access token."""
    answer = token_request(
        provider, grant_type="password", client_id="slipway-cli", username=username, password=username, scope="openid"
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


@contextmanager
def _stopped(pid: int) -> Generator[None]:
    os.killpg(pid, signal.SIGSTOP) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGCONT) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGCONT)


class DevelopmentProvider:
    """The development issuer, whose realm is a file."""

    def __init__(self, issuer: str, realm_file: Path, key_dir: Path, pid: int) -> None:
        self.issuer = issuer
        self._realm_file = realm_file
        self._key_dir = key_dir
        self._pid = pid

    @property
    def settings(self) -> dict[str, str]:
        return {"OIDC_ISSUER": self.issuer, "DIRECTORY_URL": f"realm-file://{self._realm_file}"}

    def change_user(self, user_id: str, *, enabled: bool = True, roles: list[str] | None = None) -> None:
        realm = json.loads(self._realm_file.read_text())
        user = next(user for user in realm["users"] if user["id"] == user_id)
        user["enabled"] = enabled
        if roles is not None:
            user["realmRoles"] = roles
        self._realm_file.write_text(json.dumps(realm))

    def rotate(self) -> None:
        SigningKeys(self._key_dir).rotate()

    def frozen(self) -> Any:
        return _stopped(self._pid)


class KeycloakProvider:
    """Keycloak, administered over its own API."""

    def __init__(self, server: KeycloakServer) -> None:
        self.server = server
        self.issuer = server.issuer()

    @property
    def settings(self) -> dict[str, str]:
        return {
            "OIDC_ISSUER": self.issuer,
            "DIRECTORY_URL": self.server.directory_url(),
            "DIRECTORY_SECRET": CI_SECRET,
        }

    def change_user(self, user_id: str, *, enabled: bool = True, roles: list[str] | None = None) -> None:
        user = self.server.admin("GET", f"/users/{user_id}")
        self.server.admin("PUT", f"/users/{user_id}", user | {"enabled": enabled})
        if roles is not None:
            place = f"/users/{user_id}/role-mappings/realm"
            self.server.admin("DELETE", place, self.server.admin("GET", place))
            self.server.admin("POST", place, [self.server.admin("GET", f"/roles/{role}") for role in roles])

    def rotate(self) -> None:
        new_key(self.server, "slipway", "rsa-generated", priority=len(self.server.admin("GET", "/keys")["keys"]) * 100)

    def frozen(self) -> Any:
        return _stopped(self.server.process.pid)


def new_key(server: KeycloakServer, realm: str, kind: str, *, priority: int = 1000, **config: str) -> None:
    """Has a realm of Keycloak sign with a key of its own making."""
    component = {
        "name": f"{kind}-{priority}",
        "providerId": kind,
        "providerType": "org.keycloak.keys.KeyProvider",
        "config": {name: [value] for name, value in ({"priority": str(priority)} | config).items()},
    }
    server.admin("POST", "/components", component, realm=realm)
