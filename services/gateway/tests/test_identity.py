"""One contract for identity providers: the development issuer and Keycloak, with the same realm."""

import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from gateway_testing.identity import Identity
from gateway_testing.processes import GATEWAY, ISSUER, Launch, issuer_env, wait_for_http
from gateway_testing.providers import (
    CI_SECRET,
    DevelopmentProvider,
    KeycloakProvider,
    Provider,
    token_of,
    token_request,
)
from slipway.identity.v1.identity_pb2_grpc import IdentityServiceStub
from slipway.runs.v1 import runs_pb2
from slipway_chassis.channel import connect
from slipway_chassis.errors import RemoteError
from slipway_chassis.ids import new_id
from slipway_chassis.tokens import CallerTokenVerifier
from slipway_cli.main import app
from slipway_gateway import keys
from slipway_testkit.pages import sign_in
from typer.testing import CliRunner, Result

REALM = Path(__file__).parents[3] / "k8s" / "realm" / "slipway-realm.json"
# Keycloak's first start on a machine builds it, too.
SLOW = pytest.mark.timeout(400)


@pytest.fixture(scope="module", params=["development", pytest.param("keycloak", marks=[pytest.mark.servers, SLOW])])
def provider(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
    launch: Launch,
) -> Iterator[Provider]:
    if request.param == "keycloak":
        yield KeycloakProvider(request.getfixturevalue("keycloak_server"))
        return
    folder = tmp_path_factory.mktemp("provider")
    realm_file = folder / "realm.json"
    realm_file.write_bytes(REALM.read_bytes())
    address = f"127.0.0.1:{free_port()}"
    process = launch(ISSUER, issuer_env(address, realm_file, folder / "keys"))
    url = f"http://{address}/realms/slipway"
    wait_for_http(process, f"{url}/.well-known/openid-configuration")
    yield DevelopmentProvider(url, realm_file, folder / "keys", process.pid)
    process.stop()


@pytest.fixture(scope="module")
def at(provider: Provider, other_gateway: Callable[..., Any]) -> Any:
    """A gateway that takes the provider's tokens."""
    return other_gateway(**provider.settings)


@pytest.fixture
async def identity(at: Any) -> AsyncIterator[Identity]:
    channel = connect(at.grpc_target)
    yield Identity(IdentityServiceStub(channel), CallerTokenVerifier(at.key_dir / keys.JWKS_NAME))
    await channel.close()


@pytest.fixture
def run_grant(services: Any, at: Any) -> Callable[[str], str]:
    """The grant of a run that the bearer of a token starts."""
    services.on("StartRun", lambda call: runs_pb2.StartRunResponse(run=runs_pb2.Run(run_id=new_id("run"))))

    def start(token: str) -> str:
        answer = httpx.post(
            f"{at.url}/v1/agents/refund-desk/runs", json={"input": {}}, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 202, answer.text
        return services.last("StartRun").request.run_grant

    return start


def whoami(gateway: Any, token: str) -> httpx.Response:
    return httpx.get(f"{gateway.url}/v1/whoami", headers={"Authorization": f"Bearer {token}"}, timeout=30)


@pytest.mark.parametrize(
    ("username", "tenant", "roles", "groups"),
    [
        ("alice", "acme", ["developer", "operator"], ["acme", "support"]),
        ("erin", "acme", [], ["acme"]),
        ("gina", "globex", ["developer", "operator"], ["globex"]),
    ],
)
def test_a_persons_token_says_tenant_roles_and_groups(
    provider: Provider, at: Any, username: str, tenant: str, roles: list[str], groups: list[str]
) -> None:
    caller = whoami(at, token_of(provider, username)).json()
    assert (caller["subject"], caller["name"], caller["tenant"]) == (username, username, tenant)
    assert (caller["roles"], caller["groups"]) == (roles, groups)


def test_a_service_account_is_a_principal_with_tenant_and_roles(provider: Provider, at: Any) -> None:
    answer = token_request(
        provider, grant_type="client_credentials", client_id="slipway-ci", client_secret=CI_SECRET
    ).json()
    caller = whoami(at, answer["access_token"]).json()
    assert (caller["subject"], caller["tenant"]) == ("service-account-slipway-ci", "acme")
    assert caller["roles"] == ["developer", "operator"]


def test_a_client_that_the_gateway_does_not_list_is_refused_with_what_to_change(provider: Provider, at: Any) -> None:
    answer = token_request(
        provider, grant_type="client_credentials", client_id="slipway-gateway", client_secret=CI_SECRET
    ).json()
    refused = whoami(at, answer["access_token"])
    assert refused.status_code == 401
    assert "SLIPWAY_GATEWAY_OIDC_AZP" in refused.json()["detail"]


def test_a_token_of_another_issuer_learns_whose_tokens_are_taken(provider: Provider, at: Any, issuer: Any) -> None:
    refused = whoami(at, issuer.token("alice"))
    assert refused.status_code == 401
    assert provider.issuer in refused.json()["detail"]


def test_id_and_refresh_tokens_open_nothing(provider: Provider, at: Any) -> None:
    answer = token_request(
        provider, grant_type="password", client_id="slipway-cli", username="bob", password="bob", scope="openid"
    ).json()
    assert whoami(at, answer["access_token"]).status_code == 200
    assert [whoami(at, answer[kind]).status_code for kind in ("id_token", "refresh_token")] == [401, 401]


class SignedIn:
    """The command line in a data directory of its own."""

    def __init__(self, gateway: str, folder: Path) -> None:
        self.gateway = gateway
        self.folder = folder

    def __call__(self, *arguments: str) -> Result:
        env = {"SLIPWAY_DATA_DIR": str(self.folder), "SLIPWAY_TOKEN": None, "SLIPWAY_URL": None, "SLIPWAY_AS": None}
        return CliRunner().invoke(app, arguments, env=env)

    @property
    def tokens(self) -> dict[str, Any]:
        return json.loads((self.folder / "login.json").read_text())["tokens"]

    def end_access_token(self) -> None:
        """As if its time were over."""
        content = json.loads((self.folder / "login.json").read_text())
        content["tokens"]["ends"] = time.time()
        (self.folder / "login.json").write_text(json.dumps(content))


@pytest.fixture
def slipway(at: Any, tmp_path: Path) -> SignedIn:
    return SignedIn(at.url, tmp_path)


def person(monkeypatch: pytest.MonkeyPatch, username: str) -> list[httpx.Response]:
    """Somebody who opens what `slipway login` shows, and signs in there."""
    seen: list[httpx.Response] = []

    def go(address: str, *_: str) -> None:
        threading.Thread(target=lambda: seen.append(sign_in(address, username, username)), daemon=True).start()

    monkeypatch.setattr("slipway_cli.commands.identity._tell", go)
    monkeypatch.setattr("webbrowser.open", go)
    monkeypatch.setattr("slipway_cli.loopback._SECONDS", 30.0)
    return seen


def test_login_by_device_is_renewed_and_ends_with_logout(
    provider: Provider, slipway: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    person(monkeypatch, "alice")
    done = slipway("login", "--device", "--url", slipway.gateway)
    assert (done.exit_code, done.stdout) == (0, "signed in as alice (acme)\n"), done.output
    assert json.loads(slipway("whoami", "--json").stdout)["subject"] == "alice"
    first = slipway.tokens
    assert (slipway.folder / "login.json").stat().st_mode & 0o777 == 0o600

    slipway.end_access_token()
    assert slipway("whoami").exit_code == 0
    assert slipway.tokens["access"] != first["access"]

    refresh = slipway.tokens["refresh"]
    assert slipway("logout").stdout == "signed out\n"
    renewed = token_request(provider, grant_type="refresh_token", client_id="slipway-cli", refresh_token=refresh)
    assert renewed.json()["error"] == "invalid_grant"
    assert not (slipway.folder / "login.json").exists()


def test_login_by_browser_and_a_disabled_user_gets_no_fresh_token(
    provider: Provider, slipway: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    person(monkeypatch, "carol")
    done = slipway("login", "--browser", "--url", slipway.gateway)
    assert (done.exit_code, done.stdout) == (0, "signed in as carol (acme)\n"), done.output
    elsewhere = slipway("whoami", "--url", "http://127.0.0.1:1")
    assert elsewhere.exit_code == 3, "a sign-in is for one gateway"
    assert slipway.gateway in elsewhere.stderr
    provider.change_user("carol", enabled=False)
    try:
        slipway.end_access_token()
        ended = slipway("whoami")
        assert ended.exit_code == 3
        assert "slipway login" in ended.stderr
    finally:
        provider.change_user("carol")


async def test_a_run_goes_on_with_the_roles_of_now_and_not_for_a_disabled_user(
    provider: Provider, identity: Identity, run_grant: Callable[[str], str]
) -> None:
    grants = {name: run_grant(token_of(provider, name)) for name in ("bob", "dave")}
    try:
        provider.change_user("bob", roles=["reviewer"])
        caller = await identity.exchange(grants["bob"], version=3)
        assert (caller.subject, caller.act, caller.roles) == ("bob", "refund-desk@3", {"reviewer"})
        assert caller.groups == {"acme"}
        provider.change_user("dave", enabled=False)
        with pytest.raises(RemoteError) as gone:
            await identity.exchange(grants["dave"])
        assert gone.value.reason == "SUBJECT_DISABLED"
    finally:
        provider.change_user("bob", roles=["reviewer", "refund-approver"])
        provider.change_user("dave")


def test_a_rotated_key_is_fetched_once_and_the_old_one_stays_good_while_published(provider: Provider, at: Any) -> None:
    before = token_of(provider, "alice")
    assert whoami(at, before).status_code == 200
    fetched = at.process.output.count('"oidc.keys_fetched"')
    provider.rotate()
    after = [token_of(provider, name) for name in ("alice", "bob", "gina")]
    assert {kid(token) for token in after}.isdisjoint({kid(before)})
    assert [whoami(at, token).status_code for token in after] == [200, 200, 200]
    assert whoami(at, token_of(provider, "alice")).status_code == 200
    old = whoami(at, before)
    assert old.status_code == 200
    assert at.process.output.count('"oidc.keys_fetched"') == fetched + 1


def kid(token: str) -> str:
    return jwt.get_unverified_header(token)["kid"]


def test_a_provider_that_does_not_answer_stops_no_known_key(provider: Provider, at: Any) -> None:
    token = token_of(provider, "alice")
    assert whoami(at, token).status_code == 200
    fresh = token_of(provider, "bob")
    with provider.frozen():
        assert whoami(at, token).status_code == 200
        assert whoami(at, fresh).status_code == 200
        assert httpx.get(f"{at.url}/readyz").status_code == 200


def test_the_gateway_does_not_start_for_a_realm_that_is_not_there(provider: Provider, at: Any, launch: Launch) -> None:
    wrong = re.sub("slipway$", "nowhere", provider.issuer)
    process = launch(GATEWAY, at.env | {"SLIPWAY_GATEWAY_OIDC_ISSUER": wrong} | listeners())
    assert process.wait(60) == 2, process.output
    assert "answered 404" in process.output
    assert "SLIPWAY_GATEWAY_OIDC_ISSUER" in process.output
    assert "Traceback" not in process.output


def listeners() -> dict[str, str]:
    return {f"SLIPWAY_GATEWAY_{name}_LISTEN": "127.0.0.1:0" for name in ("HTTP", "GRPC", "METRICS")}
