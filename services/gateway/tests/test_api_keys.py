"""API keys: made, used, listed, revoked."""

import hashlib
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx


def make(caller: Any, name: str, roles: list[str], **body: Any) -> httpx.Response:
    return caller.post("/v1/api-keys", json={"name": name, "roles": roles, **body})


def as_key(gateway: Any, key: str) -> httpx.Response:
    return httpx.get(f"{gateway.url}/v1/whoami", headers={"Authorization": f"Bearer {key}"})


def test_a_key_opens_the_door_as_its_service_principal_until_it_is_revoked(gateway: Any, alice: Any) -> None:
    answer = make(alice, "nightly", ["operator"])
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert made["key"].startswith("sk-slip-")

    who = as_key(gateway, made["key"]).json()
    assert who["subject"] == "api-key:nightly"
    assert who["tenant"] == "acme"
    assert who["roles"] == ["operator"]
    assert who["method"] == "api_key"

    assert alice.delete(f"/v1/api-keys/{made['key_id']}").status_code == 204
    refused = as_key(gateway, made["key"])
    assert refused.status_code == 401
    assert refused.json()["code"] == "TOKEN_INVALID"
    assert alice.delete(f"/v1/api-keys/{made['key_id']}").status_code == 204


def test_a_key_is_shown_once(alice: Any) -> None:
    made = make(alice, "shown-once", ["developer"]).json()
    listed = alice.get("/v1/api-keys").json()["api_keys"]
    mine = next(key for key in listed if key["key_id"] == made["key_id"])
    assert "key" not in mine
    assert mine["owner"] == "alice"
    assert mine["revoke_time"] is None


async def test_only_the_digest_of_a_key_is_stored(gateway: Any, alice: Any) -> None:
    made = make(alice, "hashed", ["developer"]).json()
    connection = await asyncpg.connect(gateway.env["SLIPWAY_GATEWAY_DATABASE_URL"])
    try:
        row = await connection.fetchrow("SELECT * FROM api_key WHERE key_id = $1", made["key_id"])
    finally:
        await connection.close()
    assert row["digest"] == hashlib.sha256(made["key"].encode()).digest()
    assert made["key"] not in str(dict(row))


def test_a_mistyped_or_invented_key_is_refused(gateway: Any, alice: Any) -> None:
    key = make(alice, "mistyped", ["developer"]).json()["key"]
    swapped = key[:-9] + ("A" if key[-9] != "A" else "B") + key[-8:]
    for wrong in (swapped, key[:-1], key + "0", "sk-slip-" + "A" * 51, "sk-slip-"):
        assert as_key(gateway, wrong).status_code == 401


def test_nobody_gives_a_key_more_than_they_have(caller: Callable[[str], Any]) -> None:
    answer = make(caller("alice"), "greedy", ["auditor"])
    assert answer.status_code == 403
    assert answer.json()["code"] == "ROLE_NOT_GRANTABLE"


def test_not_even_an_administrator_gives_a_key_the_roles_that_judge_others(caller: Callable[[str], Any]) -> None:
    """Else an administrator would be a second pair of eyes over what they proposed themselves."""
    for role in ("reviewer", "refund-approver", "platform-admin"):
        assert make(caller("dave"), "judge", [role]).status_code == 403
    assert make(caller("dave"), "builder", ["developer", "auditor"]).status_code == 201


def test_a_key_makes_no_keys_of_its_own_rank_for_others(gateway: Any, caller: Callable[[str], Any]) -> None:
    assert make(caller("erin"), "none", ["developer"]).status_code == 403
    assert make(caller("bob"), "none", ["reviewer"]).status_code == 403


def test_a_key_makes_no_keys(gateway: Any, alice: Any) -> None:
    """Else a leaked key would outlive its revocation and its expiry, and hide whose it is from four eyes."""
    key = make(alice, "parent", ["developer"]).json()["key"]
    answer = httpx.post(
        f"{gateway.url}/v1/api-keys",
        json={"name": "child", "roles": ["developer"]},
        headers={"Authorization": f"Bearer {key}"},
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "API_KEY_MAKES_NO_KEYS")


def test_a_name_belongs_to_whoever_had_it_first(caller: Callable[[str], Any]) -> None:
    """Two owners of one name would be the same principal."""
    assert make(caller("alice"), "alices-own", ["developer"]).status_code == 201
    answer = make(caller("dave"), "alices-own", ["developer"])
    assert answer.status_code == 409
    assert answer.json()["code"] == "API_KEY_NAME_TAKEN"
    assert make(caller("alice"), "alices-own", ["operator"]).status_code == 201


def test_another_tenants_key_is_not_found(caller: Callable[[str], Any]) -> None:
    key_id = make(caller("alice"), "private", ["developer"]).json()["key_id"]
    answer = caller("gina").delete(f"/v1/api-keys/{key_id}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "API_KEY_NOT_FOUND"
    assert key_id not in caller("gina").get("/v1/api-keys").text


def test_colleagues_see_their_own_keys_and_the_administrator_all(caller: Callable[[str], Any]) -> None:
    key_id = make(caller("alice"), "seen-by-dave", ["developer"]).json()["key_id"]
    assert key_id in caller("dave").get("/v1/api-keys?page_size=200").text
    assert caller("bob").get("/v1/api-keys").json()["api_keys"] == []
    assert caller("bob").delete(f"/v1/api-keys/{key_id}").status_code == 403
    assert caller("dave").delete(f"/v1/api-keys/{key_id}").status_code == 204


def test_keys_come_in_pages(alice: Any) -> None:
    made = [make(alice, "paged", ["developer"]).json()["key_id"] for _ in range(3)]
    seen: list[str] = []
    token = ""
    while True:
        page = alice.get("/v1/api-keys", params={"page_size": 2, "page_token": token}).json()
        assert len(page["api_keys"]) <= 2
        seen += [key["key_id"] for key in page["api_keys"]]
        token = page.get("next_page_token")
        if not token:
            break
    assert seen == sorted(seen, reverse=True)
    assert set(made) <= set(seen)
    assert len(seen) == len(set(seen))


def test_a_repeated_request_makes_no_second_key(alice: Any) -> None:
    headers = {"Idempotency-Key": "make-it-once"}
    body = {"name": "once", "roles": ["developer"]}
    first = alice.post("/v1/api-keys", json=body, headers=headers)
    again = alice.post("/v1/api-keys", json=body, headers=headers)
    assert again.status_code == 409
    assert again.json()["code"] == "API_KEY_ALREADY_ISSUED"
    assert again.json()["metadata"]["key_id"] == first.json()["key_id"]
    other = alice.post("/v1/api-keys", json=body | {"roles": ["operator"]}, headers=headers)
    assert other.status_code == 422
    assert other.json()["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert other.json()["field"] == "Idempotency-Key"
    assert "request_id" not in other.text, "the client knows a header, not the field of the contract"


def test_a_wrong_description_names_every_field(alice: Any) -> None:
    answer = make(alice, "Not A Name", ["developer"])
    assert answer.status_code == 422
    assert answer.json()["field"] == "name"
    answer = make(alice, "fine", [], expires_in_seconds=1)
    assert {item["field"] for item in answer.json()["violations"]} == {"roles", "expires_in_seconds"}
    assert make(alice, "fine", ["developer"], expire="never").json()["field"] == "expire"


async def test_making_and_revoking_a_key_is_on_its_way_to_the_audit_log(
    gateway: Any, alice: Any, valkey_url: str
) -> None:
    import asyncio
    import json

    from slipway_chassis.bus import Message, open_bus

    made = make(alice, "audited", ["developer"]).json()
    alice.delete(f"/v1/api-keys/{made['key_id']}")
    bus = await open_bus(valkey_url)
    events: dict[str, Any] = {}
    both = asyncio.Event()

    async def collect(message: Message, _: int) -> None:
        event = json.loads(json.loads(message.body)["event"])
        if event["resource"] == f"ApiKey/{made['key_id']}":
            events[event["type"]] = event
        if len(events) == 2:
            both.set()

    consuming = asyncio.create_task(bus.consume("audit.events", "gateway-tests", collect))
    try:
        async with asyncio.timeout(15):
            await both.wait()
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        await bus.close()
    assert set(events) == {"api_key.created", "api_key.revoked"}
    created = events["api_key.created"]
    assert created["actor"]["subject"] == "alice"
    assert created["data"]["roles"] == ["developer"]
    assert created["policy"]["policies"]
    assert made["key"] not in json.dumps(events)
