"""Tokens that differ from a good one in one thing are refused, each with a problem."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_testing.forging import Forger, forgeries

SOURCE = (Path(__file__).parent / "gateway_testing" / "forging.py").read_text()
NAMES = re.findall(r'^        "([^"]+)": ', SOURCE, re.MULTILINE)


@pytest.fixture(scope="module")
def forged(issuer: Any) -> dict[str, str]:
    return forgeries(Forger(issuer.key_dir, issuer.token("alice")))


def whoami(gateway: Any, *headers: tuple[str, str]) -> httpx.Response:
    return httpx.get(f"{gateway.url}/v1/whoami", headers=list(headers))


def test_the_forger_can_make_a_good_token(gateway: Any, issuer: Any) -> None:
    """Else every refusal below could have another reason than the one that it is named after."""
    token = Forger(issuer.key_dir, issuer.token("alice")).sign({"jti": "another"})
    assert whoami(gateway, ("Authorization", f"Bearer {token}")).json()["subject"] == "alice"


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_token_is_refused(gateway: Any, forged: dict[str, str], name: str) -> None:
    answer = whoami(gateway, ("Authorization", f"Bearer {forged[name]}"))
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    problem = answer.json()
    assert problem["code"] in {"TOKEN_INVALID", "TOKEN_EXPIRED"}
    assert len(problem["trace_id"]) == 32
    assert forged[name] not in answer.text


def test_every_forgery_has_its_test(forged: dict[str, str]) -> None:
    assert set(NAMES) == set(forged)
    assert len(NAMES) > 50


def test_a_token_without_tenant_is_known_but_not_let_in(gateway: Any, issuer: Any) -> None:
    forger = Forger(issuer.key_dir, issuer.token("alice"))
    for token in (forger.sign(drop=("tenant",)), forger.sign({"tenant": ""}), forger.sign({"tenant": "acme/alice"})):
        answer = whoami(gateway, ("Authorization", f"Bearer {token}"))
        assert answer.status_code == 403
        assert answer.json()["code"] == "TENANT_MISSING"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("Authorization", ""),),
        (("Authorization", "Bearer"),),
        (("Authorization", "Basic YWxpY2U6YWxpY2U="),),
        (("X-Authorization", "Bearer x"),),
    ],
)
def test_without_a_bearer_token_the_answer_says_what_to_send(
    gateway: Any, headers: tuple[tuple[str, str], ...]
) -> None:
    answer = whoami(gateway, *headers)
    assert answer.status_code == 401
    assert answer.json()["code"] == "TOKEN_MISSING"
    assert "Bearer" in answer.json()["detail"]


def test_two_authorization_headers_are_refused_even_if_one_is_good(gateway: Any, issuer: Any) -> None:
    good = ("Authorization", f"Bearer {issuer.token('alice')}")
    answer = whoami(gateway, good, ("Authorization", "Bearer x"))
    assert answer.status_code == 401


def test_an_unauthenticated_body_is_not_read(gateway: Any) -> None:
    """A stranger learns nothing about what is wrong with a request."""
    answer = httpx.post(f"{gateway.url}/v1/sessions", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 401


def test_an_id_token_of_the_issuer_is_refused(gateway: Any, issuer: Any) -> None:
    answer = issuer.post(
        grant_type="password", client_id="slipway-cli", username="alice", password="alice", scope="openid"
    )
    identity = answer.json()["id_token"]
    assert whoami(gateway, ("Authorization", f"Bearer {identity}")).status_code == 401


def test_a_flood_of_unknown_keys_does_not_hold_up_good_tokens(
    gateway: Any, issuer: Any, caller: Callable[[str], Any]
) -> None:
    forger = Forger(issuer.key_dir, issuer.token("alice"))
    bad = [forger.sign(header={"kid": f"flood-{number}"}) for number in range(30)]
    alice = caller("alice")
    with ThreadPoolExecutor(30) as pool:
        refused = [pool.submit(whoami, gateway, ("Authorization", f"Bearer {token}")) for token in bad]
        during = [alice.get("/v1/whoami").status_code for _ in range(20)]
        answers = {one.result().status_code for one in refused}
    assert during == [200] * 20
    assert answers == {401}
    # Thirty tokens with unknown keys made the gateway fetch the key set a handful of times at most.
    assert gateway.process.output.count('"oidc.keys_fetched"') <= 15
