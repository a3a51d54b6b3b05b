"""The development issuer: where it listens, whom it signs in, what its tokens say."""

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from gateway_testing.forging import parts
from gateway_testing.processes import ISSUER, Launch, issuer_env, wait_for_http

MACHINE = "service-account-slipway-ci"
REDIRECT = "http://127.0.0.1:53682/callback"


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8081", ":8081", "example.org:8081", "8081"])
def test_it_refuses_every_address_but_loopback_with_a_sentence(
    address: str, issuer: Any, launch: Launch, tmp_path: Path
) -> None:
    process = launch(ISSUER, issuer_env(address, issuer.realm_file, tmp_path))
    assert process.wait() == 2
    assert "SLIPWAY_DEV_ISSUER_LISTEN must be" in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be used"), ("{", "not JSON"), ('{"realm": "x", "users": [{"enabled": true}]}', "users.0.username")],
)
def test_a_realm_file_that_cannot_be_used_is_named(
    content: str | None, complaint: str, launch: Launch, tmp_path: Path
) -> None:
    file = tmp_path / "realm.json"
    if content is not None:
        file.write_text(content)
    process = launch(ISSUER, issuer_env("127.0.0.1:0", file, tmp_path))
    assert process.wait() == 2
    assert str(file) in process.output
    assert complaint in process.output
    assert "Traceback" not in process.output


def test_its_tokens_have_the_claims_that_keycloak_gives(issuer: Any) -> None:
    header, claims, _ = parts(issuer.token("alice"))
    assert header["alg"] == "RS256"
    assert header["typ"] == "JWT"
    assert claims["iss"] == issuer.url
    assert claims["aud"] == ["slipway"]
    assert claims["azp"] == "slipway-cli"
    assert claims["typ"] == "Bearer"
    assert claims["sub"] == claims["preferred_username"] == "alice"
    assert claims["tenant"] == "acme"
    assert claims["realm_access"] == {"roles": ["developer", "operator"]}
    assert claims["groups"] == ["acme", "support"]
    assert claims["exp"] - claims["iat"] == 300
    assert claims["jti"]


def test_discovery_names_the_keys(issuer: Any) -> None:
    document = httpx.get(f"{issuer.url}/.well-known/openid-configuration").json()
    assert document["issuer"] == issuer.url
    keys = httpx.get(document["jwks_uri"]).json()["keys"]
    header, _, _ = parts(issuer.token("bob"))
    assert header["kid"] in {key["kid"] for key in keys}
    assert all("d" not in key for key in keys)


def test_a_client_signs_in_by_itself(issuer: Any, gateway: Any) -> None:
    secret = next(
        client["secret"]
        for client in json.loads(issuer.realm_file.read_text())["clients"]
        if client["clientId"] == "slipway-ci"
    )
    endpoint = f"{issuer.url}/protocol/openid-connect/token"
    answer = httpx.post(endpoint, data={"grant_type": "client_credentials"}, auth=("slipway-ci", secret))
    assert answer.status_code == 200, answer.text
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    who = httpx.get(f"{gateway.url}/v1/whoami", headers=bearer).json()
    assert who["subject"] == "service-account-slipway-ci"
    assert who["tenant"] == "acme"
    wrong = httpx.post(endpoint, data={"grant_type": "client_credentials"}, auth=("slipway-ci", "wrong"))
    assert wrong.status_code == 401
    assert wrong.json()["error"] == "invalid_client"


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "password", "client_id": "slipway-cli", "username": "alice", "password": "x"}, "invalid_grant"),
        ({"grant_type": "password", "client_id": "slipway-cli", "username": "zoe", "password": "x"}, "invalid_grant"),
        ({"grant_type": "password", "client_id": "slipway-cli", "username": MACHINE, "password": ""}, "invalid_grant"),
        ({"grant_type": "password", "client_id": "nobody", "username": "alice", "password": "alice"}, "invalid_client"),
        ({"grant_type": "client_credentials", "client_id": "slipway-cli"}, "unauthorized_client"),
        ({"grant_type": "refresh_token", "client_id": "slipway-cli"}, "invalid_grant"),
        ({"grant_type": "implicit", "client_id": "slipway-cli"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code", "client_id": "slipway-cli", "code": "x"}, "invalid_grant"),
        ({}, "invalid_client"),
    ],
)  # fmt: skip
def test_who_is_not_signed_in_learns_why(issuer: Any, form: dict[str, str], error: str) -> None:
    answer = issuer.post(**form)
    assert answer.status_code in {400, 401}
    assert answer.json()["error"] == error
    assert "access_token" not in answer.json()


def test_a_disabled_user_gets_no_token_as_soon_as_the_file_says_so(issuer: Any) -> None:
    original = issuer.realm_file.read_text()
    realm = json.loads(original)
    next(user for user in realm["users"] if user["username"] == "bob")["enabled"] = False
    sign_in = {"grant_type": "password", "client_id": "slipway-cli", "username": "bob", "password": "bob"}
    try:
        issuer.realm_file.write_text(json.dumps(realm))
        answer = issuer.post(**sign_in)
        assert answer.status_code == 400
        assert answer.json()["error"] == "invalid_grant"
        issuer.realm_file.write_text("{ half a file")
        assert issuer.post(**sign_in).status_code == 400, "an unusable file leaves the old one in force"
    finally:
        issuer.realm_file.write_text(original)
    assert issuer.post(**sign_in).status_code == 200


class Browser:
    """Signs in by the authorization code flow with PKCE."""

    def __init__(self, issuer: Any) -> None:
        self.issuer = issuer
        self.verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(self.verifier.encode()).digest()
        self.query = {
            "client_id": "slipway-cli",
            "redirect_uri": REDIRECT,
            "response_type": "code",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "state": "opaque-state",
            "scope": "openid",
            "nonce": "once",
        }

    def url(self, **changes: str) -> httpx.URL:
        return httpx.URL(f"{self.issuer.url}/protocol/openid-connect/auth", params=self.query | changes)

    def sign_in(self, username: str, password: str) -> httpx.Response:
        return httpx.post(self.url(), data={"username": username, "password": password})

    def redeem(self, code: str, **changes: str) -> httpx.Response:
        form = {"grant_type": "authorization_code", "client_id": "slipway-cli", "code": code}
        return self.issuer.post(**(form | {"redirect_uri": REDIRECT, "code_verifier": self.verifier} | changes))


def code_of(answer: httpx.Response) -> str:
    assert answer.status_code == 303, answer.text
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert query["state"] == ["opaque-state"]
    return query["code"][0]


def test_a_browser_signs_in_with_a_code_that_is_good_once(issuer: Any, gateway: Any) -> None:
    browser = Browser(issuer)
    page = httpx.get(browser.url())
    assert "Sign in" in page.text
    assert page.headers["x-frame-options"] == "DENY"
    code = code_of(browser.sign_in("alice", "alice"))
    answer = browser.redeem(code)
    assert answer.status_code == 200, answer.text
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert httpx.get(f"{gateway.url}/v1/whoami", headers=bearer).json()["subject"] == "alice"
    _, identity, _ = parts(answer.json()["id_token"])
    assert identity["aud"] == "slipway-cli"
    assert identity["nonce"] == "once"
    assert browser.redeem(code).json()["error"] == "invalid_grant"


def test_a_stolen_code_is_worth_nothing(issuer: Any) -> None:
    for changes in ({"code_verifier": "guessed"}, {"redirect_uri": "http://127.0.0.1:1/"}):
        browser = Browser(issuer)
        code = code_of(browser.sign_in("alice", "alice"))
        assert browser.redeem(code, **changes).json()["error"] == "invalid_grant"
        assert browser.redeem(code).json()["error"] == "invalid_grant", "a code is spent by a wrong try, too"


def test_a_wrong_password_shows_the_page_again(issuer: Any) -> None:
    answer = Browser(issuer).sign_in("alice", "<wrong>")
    assert answer.status_code == 401
    assert "wrong user name or password" in answer.text
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": "http://127.0.0.1.evil.example/"},
        {"redirect_uri": "http://127.0.0.1:80@evil.example/"},
        {"client_id": "slipway-ci"},
        {"client_id": "nobody"},
        {"code_challenge_method": "plain"},
        {"code_challenge": ""},
        {"response_type": "token"},
    ],
)
def test_a_browser_is_never_sent_where_it_should_not_go(issuer: Any, changes: dict[str, str]) -> None:
    answer = httpx.get(Browser(issuer).url(**changes))
    assert answer.status_code == 400
    assert "location" not in answer.headers


def test_its_key_is_kept_between_starts_and_for_its_owner_only(
    issuer: Any, launch: Launch, free_port: Callable[[], int]
) -> None:
    file = issuer.key_dir / "issuer.pem"
    assert file.stat().st_mode & 0o077 == 0
    before = httpx.get(f"{issuer.url}/protocol/openid-connect/certs").json()
    address = f"127.0.0.1:{free_port()}"
    again = launch(ISSUER, issuer_env(address, issuer.realm_file, issuer.key_dir))
    try:
        certs = f"http://{address}/realms/slipway/protocol/openid-connect/certs"
        wait_for_http(again, certs)
        assert httpx.get(certs).json() == before
    finally:
        assert again.stop() == 0
