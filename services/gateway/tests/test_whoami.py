"""Who the gateway takes a caller for."""

from collections.abc import Callable
from typing import Any


def test_a_signed_in_user_is_known_with_tenant_roles_and_groups(caller: Callable[[str], Any]) -> None:
    answer = caller("alice").get("/v1/whoami")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["subject"] == "alice"
    assert body["tenant"] == "acme"
    assert body["roles"] == ["developer", "operator"]
    assert body["groups"] == ["acme", "support"]
    assert body["method"] == "oidc"


def test_each_tenant_has_its_own_people(caller: Callable[[str], Any]) -> None:
    assert caller("gina").get("/v1/whoami").json()["tenant"] == "globex"
