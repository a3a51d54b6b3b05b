"""Which gateway, and as whom."""

from pathlib import Path
from urllib.parse import parse_qs

import pytest
from slipway_cli import session
from slipway_cli.session import DevelopmentSignIn, NotSignedInError
from slipway_client import ConnectionFailedError
from slipway_testkit.scripted_server import Answer, ScriptedServer, answers

ALICE = {"subject": "alice", "tenant": "acme", "roles": ["operator"]}


def token(text: str, expires_in: int = 300) -> Answer:
    return answers({"access_token": text, "expires_in": expires_in})


def test_a_token_is_kept_until_shortly_before_it_ends(issuer: ScriptedServer) -> None:
    sign_in = DevelopmentSignIn(issuer.url, "alice")
    issuer.then(token("first", expires_in=300))
    assert [sign_in(), sign_in()] == ["first", "first"]


def test_a_token_that_ends_within_half_a_minute_is_renewed(issuer: ScriptedServer) -> None:
    sign_in = DevelopmentSignIn(issuer.url, "alice")
    issuer.then(token("first", expires_in=29), token("second"))
    assert [sign_in(), sign_in(), sign_in()] == ["first", "second", "second"]


def test_a_client_made_for_a_user_renews_its_token_between_requests(
    issuer: ScriptedServer, gateway: ScriptedServer, data_dir: Path
) -> None:
    issuer.then(token("first", expires_in=1), token("second"))
    gateway.then(answers(ALICE), answers(ALICE))
    with session.connect(data_dir, "alice") as client:
        client.whoami()
        client.whoami()
    assert [asked.headers["authorization"] for asked in gateway.asked] == ["Bearer first", "Bearer second"]


def test_sign_in_sends_the_user_and_by_default_its_name_as_password(issuer: ScriptedServer) -> None:
    issuer.then(token("t"), token("t"))
    DevelopmentSignIn(issuer.url, "alice")()
    DevelopmentSignIn(issuer.url, "alice", "hush")()
    first, second = (parse_qs(asked.body.decode()) for asked in issuer.asked)
    assert issuer.asked[0].path == "/protocol/openid-connect/token"
    assert (first["username"], first["password"], first["grant_type"]) == (["alice"], ["alice"], ["password"])
    assert second["password"] == ["hush"]


def test_a_refused_user_and_a_silent_issuer_are_told_apart(issuer: ScriptedServer) -> None:
    issuer.then(answers({"error": "invalid_grant"}, 400), answers({}, 503))
    sign_in = DevelopmentSignIn(issuer.url, "mallory")
    with pytest.raises(NotSignedInError, match="'mallory'"):
        sign_in()
    with pytest.raises(ConnectionFailedError, match="503"):
        sign_in()
    issuer.close()
    with pytest.raises(ConnectionFailedError, match="does not answer"):
        sign_in()


def test_a_user_that_is_named_goes_before_the_token_of_the_environment(
    issuer: ScriptedServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_TOKEN", "of-the-environment")
    assert session.token_source(data_dir, None) == "of-the-environment"
    issuer.then(token("of-bob"))
    source = session.token_source(data_dir, "bob")
    assert callable(source)
    assert source() == "of-bob"


def test_who_signed_in_last_is_remembered_in_a_file_of_this_user_alone(
    issuer: ScriptedServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLIPWAY_TOKEN", raising=False)
    session.remember(data_dir, "carol", "hush")
    issuer.then(token("of-carol"))
    source = session.token_source(data_dir, None)
    assert callable(source)
    assert source() == "of-carol"
    assert parse_qs(issuer.asked[0].body.decode())["password"] == ["hush"]
    assert (data_dir / "login.json").stat().st_mode & 0o777 == 0o600


def test_without_a_stack_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotSignedInError, match=r"slipway up.*--data-dir.*--url.*SLIPWAY_TOKEN"):
        session.connect(tmp_path, "alice")


def test_with_an_address_and_a_token_no_stack_is_needed(
    gateway: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_TOKEN", "sk-slip-1")
    gateway.then(answers(ALICE))
    with session.connect(tmp_path, url=gateway.url) as client:
        assert client.whoami().subject == "alice"
    assert gateway.asked[0].headers["authorization"] == "Bearer sk-slip-1"
