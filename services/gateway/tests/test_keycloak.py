"""Keycloak beyond the contract: another realm with other claims, its directory, and what is wrong with a realm."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from gateway_testing.processes import GATEWAY, Launch
from gateway_testing.providers import CI_SECRET, KeycloakProvider, new_key
from slipway_cli.main import app
from slipway_gateway.keycloak import (
    CACHE_SECONDS,
    DirectoryRefused,
    DirectoryUnavailable,
    KeycloakDirectory,
    read_source,
)
from slipway_testkit.pages import sign_in
from slipway_testkit.servers.keycloak import KeycloakServer
from typer.testing import CliRunner

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

REALM = "Initech Corp"
# Together more than 8 KiB of a token.
TEAMS = [f"Customer Service {number:02} of the Nordics, the Baltic States and Poland" for number in range(99)]
AGENTS = "5f1c33c0-6a55-4b5d-8a1a-3f0f5b0f8f11"


def mapper(kind: str, **config: str) -> dict[str, Any]:
    return {
        "name": f"{kind}-{config.get('claim.name', 'aud')}",
        "protocol": "openid-connect",
        "protocolMapper": kind,
        "config": {"access.token.claim": "true", **config},
    }


def company() -> dict[str, Any]:
    """A realm as somebody else would have made it: Keycloak's own scopes, roles of a client, nested groups."""
    claims = [
        mapper("oidc-audience-mapper", **{"included.client.audience": "agents"}),
        mapper("oidc-usermodel-attribute-mapper", **{"user.attribute": "org", "claim.name": "org"}),
        mapper("oidc-group-membership-mapper", **{"claim.name": "teams", "full.path": "true"}),
    ]
    return {
        "realm": REALM,
        "enabled": True,
        "attributes": {"userProfileEnabled": "true"},
        "components": {
            "org.keycloak.userprofile.UserProfileProvider": [
                {
                    "providerId": "declarative-user-profile",
                    "config": {
                        "kc.user.profile.config": [
                            '{"attributes":[{"name":"username"},{"name":"email"}],"unmanagedAttributePolicy":"ADMIN_EDIT"}'
                        ]
                    },
                }
            ]
        },
        "clients": [
            {"id": AGENTS, "clientId": "agents"},
            {
                "clientId": "desk",
                "publicClient": True,
                "directAccessGrantsEnabled": True,
                "fullScopeAllowed": True,
                "attributes": {"oauth2.device.authorization.grant.enabled": "true"},
                "protocolMappers": claims,
            },
            {
                "clientId": "robot",
                "secret": CI_SECRET,
                "serviceAccountsEnabled": True,
                "fullScopeAllowed": True,
                "protocolMappers": claims,
            },
            # With the full scope Keycloak would add the audience itself, for whoever has a role of `agents`.
            {
                "clientId": "bare",
                "publicClient": True,
                "directAccessGrantsEnabled": True,
                "fullScopeAllowed": False,
            },
            {
                "clientId": "lookup",
                "secret": CI_SECRET,
                "serviceAccountsEnabled": True,
                "fullScopeAllowed": True,
            },
            {"clientId": "blind", "secret": CI_SECRET, "serviceAccountsEnabled": True},
        ],
        "roles": {
            "client": {
                "agents": [
                    {"name": "operator"},
                    {"name": "boss", "composite": True, "composites": {"client": {"agents": ["operator"]}}},
                ]
            }
        },
        "groups": [{"name": "eu", "subGroups": [{"name": "desk"}, *({"name": team} for team in TEAMS)]}],
        "users": [
            {
                "username": "zoe",
                "enabled": True,
                "email": "zoe@company.example",
                "attributes": {"org": ["initech"]},
                "groups": ["/eu/desk"],
                "clientRoles": {"agents": ["boss"]},
                "credentials": [{"type": "password", "value": "zoe"}],
            },
            {
                "username": "yan",
                "enabled": True,
                "email": "yan@company.example",
                "attributes": {"org": ["initech"]},
                "groups": [f"/eu/{team}" for team in TEAMS],
                "credentials": [{"type": "password", "value": "yan"}],
            },
            {
                "username": "service-account-robot",
                "enabled": True,
                "serviceAccountClientId": "robot",
                "attributes": {"org": ["initech"]},
                "clientRoles": {"agents": ["operator"]},
            },
            {
                "username": "service-account-lookup",
                "enabled": True,
                "serviceAccountClientId": "lookup",
                "clientRoles": {"realm-management": ["view-users"]},
            },
        ],
    }


@pytest.fixture(scope="module")
def realm(keycloak_server: KeycloakServer) -> Iterator[KeycloakServer]:
    keycloak_server.admin("POST", "", company(), realm="")
    new_key(keycloak_server, REALM, "eddsa-generated", eddsaEllipticCurveKey="Ed25519")
    sign_with(keycloak_server, "EdDSA")
    yield keycloak_server
    keycloak_server.admin("DELETE", "", realm=REALM)


def sign_with(server: KeycloakServer, algorithm: str) -> None:
    """Has the realm sign access tokens of `desk` so from now on."""
    client = server.admin("GET", "/clients?clientId=desk", realm=REALM)[0]
    client["attributes"]["access.token.signed.response.alg"] = algorithm
    server.admin("PUT", f"/clients/{client['id']}", client, realm=REALM)


@pytest.fixture(scope="module")
def settings(realm: KeycloakServer) -> dict[str, str]:
    return {
        "OIDC_ISSUER": realm.issuer(REALM),
        "OIDC_AUDIENCE": '["slipway", "agents"]',
        "OIDC_AZP": '["desk", "bare", "robot"]',
        "OIDC_TENANT_CLAIM": "org",
        "OIDC_ROLES_CLAIM": "resource_access.agents.roles",
        "OIDC_GROUPS_CLAIM": "teams",
        "DIRECTORY_URL": realm.directory_url(REALM, f"client_id=lookup&groups=path&roles_client={AGENTS}"),
        "DIRECTORY_SECRET": CI_SECRET,
    }


@pytest.fixture(scope="module")
def at(settings: dict[str, str], other_gateway: Callable[..., Any]) -> Any:
    """A gateway that takes the realm's tokens."""
    return other_gateway(**settings)


def token(server: KeycloakServer, client: str, username: str = "zoe", **form: str) -> str:
    form = form or {"grant_type": "password", "username": username, "password": username}
    form |= {"client_id": client}
    answer = httpx.post(f"{server.issuer(REALM)}/protocol/openid-connect/token", data=form, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["access_token"]


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def directory(
    web: httpx.AsyncClient, settings: dict[str, str], *, secret: str = CI_SECRET, **changes: str
) -> tuple[KeycloakDirectory, Clock]:
    values = settings | changes
    source = read_source(
        values["DIRECTORY_URL"],
        subject_claim=values.get("OIDC_SUBJECT_CLAIM", "sub"),
        tenant_claim=values["OIDC_TENANT_CLAIM"],
        roles_claim=values["OIDC_ROLES_CLAIM"],
    )
    clock = Clock()
    return KeycloakDirectory(web, source, secret, clock=clock), clock


async def test_another_realm_with_claims_of_its_own_needs_settings_only(
    realm: KeycloakServer, settings: dict[str, str], at: Any, web: httpx.AsyncClient
) -> None:
    signed = token(realm, "desk")
    assert jwt.get_unverified_header(signed)["alg"] == "EdDSA"
    caller = (await web.get(f"{at.url}/v1/whoami", headers={"Authorization": f"Bearer {signed}"})).json()
    assert (caller["tenant"], caller["name"]) == ("initech", "zoe")
    assert (caller["roles"], caller["groups"]) == (["boss", "operator"], ["eu/desk"])

    # A run of hers has the same roles and groups, from the directory.
    looked_up, _ = directory(web, settings)
    found = await looked_up.find("initech", caller["subject"])
    assert found is not None
    assert (found.name, sorted(found.roles), sorted(found.groups)) == ("zoe", caller["roles"], caller["groups"])
    by_name, _ = directory(web, settings, OIDC_SUBJECT_CLAIM="preferred_username")
    assert await by_name.find("initech", "zoe") == found
    assert await looked_up.find("acme", caller["subject"]) is None, "in another tenant she is nobody"
    assert await looked_up.find("initech", "nobody") is None

    # A client without the audience mapper.
    bare = {"Authorization": f"Bearer {token(realm, 'bare')}"}
    refused = await web.get(f"{at.url}/v1/whoami", headers=bare)
    assert refused.status_code == 401
    assert "audience mapper" in refused.json()["detail"]
    assert "bare" not in refused.text


async def test_a_realm_changes_its_algorithm_and_keys_while_the_gateway_runs(
    realm: KeycloakServer, at: Any, web: httpx.AsyncClient
) -> None:
    kinds = {"ES256": "ecdsa-generated", "PS256": "rsa-generated", "RS256": "rsa-generated"}
    try:
        for priority, (algorithm, kind) in enumerate(kinds.items(), start=2000):
            config = {} if algorithm == "ES256" else {"algorithm": algorithm}
            new_key(realm, REALM, kind, priority=priority, **config)
            sign_with(realm, algorithm)
            signed = token(realm, "desk")
            assert jwt.get_unverified_header(signed)["alg"] == algorithm
            answer = await web.get(f"{at.url}/v1/whoami", headers={"Authorization": f"Bearer {signed}"}, timeout=30)
            assert answer.status_code == 200, answer.text
    finally:
        sign_with(realm, "EdDSA")


async def test_people_of_many_groups_and_programs_sign_in_at_another_realm(
    realm: KeycloakServer, at: Any, web: httpx.AsyncClient
) -> None:
    big = token(realm, "desk", "yan")
    assert len(big) > 8192
    yan = (await web.get(f"{at.url}/v1/whoami", headers={"Authorization": f"Bearer {big}"})).json()
    assert set(yan["groups"]) == {f"eu/{team}" for team in TEAMS}
    signed = token(realm, "robot", grant_type="client_credentials", client_secret=CI_SECRET)
    robot = (await web.get(f"{at.url}/v1/whoami", headers={"Authorization": f"Bearer {signed}"})).json()
    assert (robot["tenant"], robot["roles"], robot["name"]) == ("initech", ["operator"], "service-account-robot")


def test_the_command_line_signs_in_at_another_realm_through_a_client_of_its_own(
    at: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def person(address: str, _code: str) -> None:
        threading.Thread(target=sign_in, args=(address, "zoe", "zoe"), daemon=True).start()

    monkeypatch.setattr("slipway_cli.commands.identity._tell", person)
    env = {"SLIPWAY_DATA_DIR": str(tmp_path), "SLIPWAY_TOKEN": None, "SLIPWAY_URL": None, "SLIPWAY_AS": None}
    done = CliRunner().invoke(app, ["login", "--device", "--client-id", "desk", "--url", at.url], env=env)
    assert (done.exit_code, done.stdout) == (0, "signed in as zoe (initech)\n"), done.output


async def test_a_disabled_subject_is_gone_within_ten_seconds(
    keycloak_server: KeycloakServer, web: httpx.AsyncClient
) -> None:
    provider = KeycloakProvider(keycloak_server)
    names = {"OIDC_TENANT_CLAIM": "tenant", "OIDC_ROLES_CLAIM": "realm_access.roles"}
    looked_up, clock = directory(web, provider.settings | names)
    found = await looked_up.find("globex", "gina")
    assert found is not None
    assert found.roles == {"developer", "operator"}
    assert await looked_up.has_role("developer")
    assert not await looked_up.has_role("emperor")
    provider.change_user("gina", enabled=False)
    try:
        assert await looked_up.find("globex", "gina") == found
        clock.now += CACHE_SECONDS
        assert await looked_up.find("globex", "gina") is None
    finally:
        provider.change_user("gina")


async def test_a_directory_that_cannot_be_asked_lets_nobody_go_on_and_says_to_try_again(
    realm: KeycloakServer, settings: dict[str, str], web: httpx.AsyncClient
) -> None:
    away = settings["DIRECTORY_URL"].replace(str(realm.port), "1")
    silent, _ = directory(web, settings, DIRECTORY_URL=away)
    wrong, _ = directory(web, settings, secret="wrong")
    blind, _ = directory(web, settings, DIRECTORY_URL=settings["DIRECTORY_URL"].replace("lookup", "blind"))
    for looked_up in (silent, wrong, blind):
        with pytest.raises(DirectoryUnavailable) as caught:
            await looked_up.find("initech", "zoe")
        assert caught.value.retry_after
    await silent.try_account()
    with pytest.raises(DirectoryRefused, match="view-users"):
        await blind.try_account()


@pytest.mark.parametrize(
    ("setting", "old", "new", "complaint"),
    [
        ("DIRECTORY_SECRET", CI_SECRET, "wrong", "correct `client_id`"),
        ("DIRECTORY_URL", f"realms/{quote(REALM)}", "realms/nowhere", "there is no realm 'nowhere'"),
        ("DIRECTORY_URL", AGENTS, "agents", "that the realm does not have"),
        ("DIRECTORY_URL", f"&roles_client={AGENTS}", "", "needs `roles_client`"),
    ],
)
async def test_a_directory_that_is_set_wrong_is_told_at_start(
    launch: Launch,
    gateway_env: dict[str, str],
    settings: dict[str, str],
    setting: str,
    old: str,
    new: str,
    complaint: str,
) -> None:
    values = settings | {setting: settings[setting].replace(old, new)}
    values |= {f"{name}_LISTEN": "127.0.0.1:0" for name in ("HTTP", "GRPC", "METRICS")}
    process = launch(GATEWAY, gateway_env | {f"SLIPWAY_GATEWAY_{name}": value for name, value in values.items()})
    assert process.wait(60) == 2
    assert complaint in process.output
    assert CI_SECRET not in process.output
    assert "Traceback" not in process.output
