"""Audit events: canonical, salted, chained, and recorded with the act."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.evidence import GENESIS, Evidence, commitment
from slipway_chassis.ids import is_id
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import transaction

NOON = datetime(2026, 11, 24, 13, 0, 0, 5, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture
def evidence(pool: asyncpg.Pool, keys: SubjectKeys) -> Evidence:
    return Evidence("orchestrator", Outbox(pool, None, keys))  # type: ignore[arg-type] - nothing is published here


def seal(evidence: Evidence, caller: Caller, **more: Any) -> Any:
    fields = {"subject": "alice", "resource": "run_1", "data": {"cost_usd": "0.01"}, "time": NOON, **more}
    return evidence.seal("run.event", caller=caller, **fields)


async def test_an_event_holds_what_happened_in_canonical_form(
    evidence: Evidence, caller: Callable[..., Caller]
) -> None:
    decision = PolicyDecision(True, "sha256:ab", ("operator-runs",))
    sealed = seal(
        evidence, caller(act="desk@3"), run_id="run_1", seq=1, prev=GENESIS, policy=decision, trace_id="t" * 32
    )
    assert is_id("aev", sealed.event_id)
    assert json.loads(sealed.canonical) == {
        "schema": 1,
        "id": sealed.event_id,
        "type": "run.event",
        "tenant": "acme",
        "time": "2026-11-24T12:00:00.000005Z",
        "service": "orchestrator",
        "actor": {
            "subject": "alice",
            "kind": "user",
            "act": "desk@3",
            "roles": ["developer", "operator"],
            "token_id": "jti-1",
        },
        "subject": "alice",
        "resource": "run_1",
        "run_id": "run_1",
        "seq": 1,
        "prev": "0" * 64,
        "policy": {"digest": "sha256:ab", "policies": ["operator-runs"]},
        "trace_id": "t" * 32,
        "data": {"cost_usd": "0.01"},
    }
    # Canonical: keys sorted, no space.
    assert sealed.canonical.startswith(b'{"actor":{"act":"desk@3","kind":"user",')


async def test_absent_values_are_left_out(evidence: Evidence, caller: Callable[..., Caller]) -> None:
    event = json.loads(seal(evidence, caller()).canonical)
    assert {"run_id", "seq", "prev", "policy", "trace_id"}.isdisjoint(event)
    assert "act" not in event["actor"]


async def test_the_commitment_covers_salt_and_event(evidence: Evidence, caller: Callable[..., Caller]) -> None:
    first, second = seal(evidence, caller()), seal(evidence, caller())
    assert first.commitment == hashlib.sha256(first.salt + first.canonical).hexdigest()
    assert len(first.salt) == 32
    assert first.salt != second.salt
    assert commitment(first.salt, first.canonical.replace(b"alice", b"mally")) != first.commitment


@pytest.mark.parametrize("data", [{"score": 0.5}, {"list": [{"deep": 1.0}]}])
async def test_floats_are_refused(evidence: Evidence, caller: Callable[..., Caller], data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no floats"):
        seal(evidence, caller(), data=data)


async def test_what_is_no_json_or_has_no_time_zone_is_refused(
    evidence: Evidence, caller: Callable[..., Caller]
) -> None:
    for data in ({"n": 2**60}, {"x": object()}, {"x": "\ud800"}):
        with pytest.raises(InvalidArgument):
            seal(evidence, caller(), data=data)
    with pytest.raises(ValueError, match="time zone"):
        seal(evidence, caller(), time=NOON.astimezone(UTC).replace(tzinfo=None))


async def test_a_recorded_event_lies_encrypted_and_its_commitment_in_the_clear(
    evidence: Evidence, caller: Callable[..., Caller], pool: asyncpg.Pool, keys: SubjectKeys
) -> None:
    sealed = seal(evidence, caller(), run_id="run_1", seq=1, prev=GENESIS)
    async with transaction(pool) as conn:
        await evidence.record(conn, sealed, subject="alice")
    row = await pool.fetchrow("SELECT * FROM outbox")
    assert (row["message_id"], row["topic"], row["tenant"]) == (sealed.event_id, "audit.events", "acme")
    assert row["ordering_key"] == "run_1"
    headers = json.loads(row["headers"])
    assert (headers["commitment"], headers["event-type"], headers["run-id"]) == (
        sealed.commitment,
        "run.event",
        "run_1",
    )
    assert b"cost_usd" not in row["body"]
    body = json.loads(await keys.decrypt(pool, "acme", "alice", row["body"]))
    assert body == {"event": sealed.canonical.decode(), "salt": sealed.salt.hex(), "commitment": sealed.commitment}


async def test_a_service_principal_records_for_the_tenant_that_it_acts_for(
    evidence: Evidence, caller: Callable[..., Caller]
) -> None:
    sweeper = caller(subject="service:orchestrator", kind="service", tenant="")
    sealed = seal(evidence, sweeper, tenant="acme")
    assert sealed.tenant == "acme"
    assert json.loads(sealed.canonical)["tenant"] == "acme"
