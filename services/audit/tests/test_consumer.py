"""From the bus into the log, over each adapter of the bus."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from audit_testing.service import Audit
from audit_testing.writing import RUN, Writer, message
from slipway_chassis.bus import DEAD_REASON, Message
from slipway_chassis.outbox import Outbox
from slipway_chassis.postgres import StoreUnavailable, transaction
from slipway_evidence.checkpoint import open_checkpoint
from slipway_evidence.verify import Outcome, verify

Wait = Callable[..., Any]


async def publish(audit: Audit, messages: list[Message]) -> None:
    for one in messages:
        await audit.bus.publish(one)


async def size(audit: Audit, tenant: str = "acme") -> int:
    return await audit.pool.fetchval("SELECT coalesce(max(size), 0) FROM audit_log WHERE tenant = $1", tenant)


async def test_events_of_the_bus_end_in_a_signed_log_and_its_evidence(audit_on_bus: Audit, eventually: Wait) -> None:
    audit = audit_on_bus
    writer = Writer().run()
    await publish(audit, writer.messages)

    async def signed() -> bool:
        head = await audit.heads.last("acme")
        return head is not None and head.size >= len(writer.messages)

    await eventually(signed, timeout=30)
    head = await audit.heads.last("acme")
    assert head is not None
    assert open_checkpoint(head.note, audit.verifier).head.size == len(writer.messages)
    report = verify((await audit.evidence())[0], audit.verifier)
    assert report.ok, report.finding


async def test_redelivered_and_replayed_events_are_appended_once(audit_on_bus: Audit, eventually: Wait) -> None:
    audit = audit_on_bus
    writer = Writer().run()
    await publish(audit, [*writer.messages, *writer.messages, *reversed(writer.messages)])
    other = Writer("globex")
    other.journal("run.started")
    await publish(audit, other.messages)
    await eventually(lambda: size(audit, "globex"), timeout=30)
    await eventually(lambda: size(audit), timeout=30)
    assert await size(audit) == len(writer.messages)


async def test_outboxes_keep_events_until_the_log_holds_them(audit_on_bus: Audit, eventually: Wait) -> None:
    audit, writer = audit_on_bus, Writer().run()
    lost = spoil(writer.messages[1], commitment="00" * 32)  # ends among the dead letters, which keep it
    sent = [*writer.messages[:1], lost, *writer.messages[2:]]
    outbox = Outbox(audit.pool, audit.bus, audit.keys)
    async with transaction(audit.pool) as conn:
        for one in sent:
            await outbox.add(
                conn, one.topic, one.body, message_id=one.id, tenant=one.tenant, headers=one.headers, receipt=True
            )

    async def empty() -> bool:
        return await audit.pool.fetchval("SELECT count(*) FROM outbox") == 0

    await eventually(empty, timeout=30)
    assert await size(audit) == len(sent) - 1
    assert [one.id for one in await audit.bus.dead_letters("audit.events", "audit", 10)] == [lost.id]


def body(one: Message) -> dict[str, Any]:
    return json.loads(one.body)


def spoil(one: Message, **changes: Any) -> Message:
    return replace(one, body=json.dumps(body(one) | changes).encode())


def resealed(change: Callable[[dict[str, Any]], None]) -> Message:
    """An event whose commitment fits, so that only what was changed can be wrong."""
    import hashlib

    from slipway_chassis.jcs import canonical_json

    writer = Writer()
    sealed = writer.event("tool.call", {"tool": "python"})
    event = json.loads(sealed.canonical)
    change(event)
    canonical = canonical_json(event)
    digest = hashlib.sha256(sealed.salt + canonical).hexdigest()
    return message(replace(sealed, canonical=canonical, commitment=digest))


BAD: list[tuple[str, Callable[[], Message]]] = [
    ("not JSON", lambda: replace(Writer().run().messages[0], body=b"\xff")),
    ("not a JSON object", lambda: replace(Writer().run().messages[0], body=b"[]")),
    ("not JSON", lambda: replace(Writer().run().messages[0], body=b"[" * 100_000)),
    ("needs event", lambda: spoil(Writer().run().messages[0], salt="00")),
    ("commitment is not that", lambda: spoil(Writer().run().messages[0], salt="00" * 32)),
    ("lone surrogate", lambda: spoil(Writer().run().messages[0], event="\ud800")),
    ("are not those of the event", lambda: replace(Writer().run().messages[0], tenant="globex")),
    ("are not those of the event", lambda: replace(Writer().run().messages[0], id=Writer().run().messages[1].id)),
    ("schema", lambda: resealed(lambda event: event.update(schema=2))),
    ("time", lambda: resealed(lambda event: event.update(time="2026-13-45T99:00:00Z"))),
    ("tenant", lambda: resealed(lambda event: event.update(tenant="a/b"))),
    ("surprise", lambda: resealed(lambda event: event.update(surprise=1))),
    ("prev", lambda: resealed(lambda event: event.update(seq=3))),
    ("commitment", lambda: replace(Writer().run().messages[0], body=b'{"erased":true}', headers={})),
]


@pytest.mark.parametrize(("reason", "make"), BAD, ids=[f"{i}-{one[0]}" for i, one in enumerate(BAD)])
async def test_an_event_that_the_log_cannot_take_becomes_a_dead_letter_with_the_reason(
    audit: Audit, eventually: Wait, reason: str, make: Callable[[], Message]
) -> None:
    bad = make()
    good = Writer(run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4z").run()
    await publish(audit, [bad, *good.messages])
    letters = await eventually(lambda: audit.bus.dead_letters("audit.events", "audit", 10))
    assert [letter.id for letter in letters] == [bad.id]
    assert letters[0].headers[DEAD_REASON].startswith("INVALID_AUDIT_EVENT: ")
    assert reason in letters[0].headers[DEAD_REASON]
    assert "Grüße" not in letters[0].headers[DEAD_REASON]

    async def appended() -> bool:
        return await size(audit) == len(good.messages)

    await eventually(appended)


async def test_another_event_under_a_known_id_is_refused_loudly_on_every_adapter(
    audit_on_bus: Audit, eventually: Wait
) -> None:
    audit = audit_on_bus
    first = Writer()
    first.event("tool.call", {"tool": "python"})
    event = json.loads(body(first.messages[0])["event"])
    other = resealed(lambda changed: changed.update(id=event["id"]))
    other = replace(other, id=event["id"])
    await publish(audit, first.messages)
    await eventually(lambda: size(audit), timeout=30)
    await publish(audit, [other])
    letters = await eventually(lambda: audit.bus.dead_letters("audit.events", "audit", 10), timeout=30)
    assert letters[0].headers[DEAD_REASON].startswith("AUDIT_EVENT_CONFLICT: ")
    assert await size(audit) == 1
    stored = await audit.store.leaves_by_id("acme", [event["id"]])
    assert stored[0].event == body(first.messages[0])["event"]


async def test_an_event_erased_before_it_was_published_still_becomes_a_leaf(audit: Audit, eventually: Wait) -> None:
    writer = Writer().run()
    record = next(one for one in writer.messages if one.headers["event-type"] == "model.call")
    gone = replace(record, body=json.dumps({"erased": True, "id": record.id}).encode())
    await publish(audit, [gone if one is record else one for one in writer.messages])

    async def whole() -> bool:
        return await size(audit) == len(writer.messages)

    await eventually(whole)
    data, complete = await audit.evidence()
    report = verify(data, audit.verifier)
    assert report.ok, report.finding
    assert complete
    assert report.summary is not None
    assert len(report.summary.erased) == 1


async def test_events_survive_a_crash_of_the_database_and_none_is_given_up(
    audit: Audit, postgres_server: Any, eventually: Wait
) -> None:
    first, second = Writer().run(), Writer(run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4d").run()
    for number, one in enumerate([*first.messages, *second.messages]):
        if number == len(first.messages):
            await asyncio.to_thread(postgres_server.restart, crash=True)
        await audit.bus.publish(one)

    async def whole() -> bool:
        try:
            return await size(audit) == len(first.messages) + len(second.messages)
        except StoreUnavailable as error:
            raise AssertionError("the database is away") from error

    await eventually(whole, timeout=30)
    assert await audit.bus.dead_letters("audit.events", "audit", 10) == []
    for run in (first, second):
        report = verify((await audit.evidence(run.run_id))[0], audit.verifier)
        assert report.ok, report.finding


async def test_a_journal_that_arrives_out_of_order_is_exported_as_far_as_it_has_no_gap(
    audit: Audit, eventually: Wait
) -> None:
    writer = Writer().run()
    late = writer.messages[2]
    await publish(audit, [one for one in writer.messages if one is not late])

    async def arrived() -> bool:
        return await size(audit) == len(writer.messages) - 1

    await eventually(arrived)
    data, complete = await audit.evidence()
    assert not complete
    report = verify(data, audit.verifier)
    assert report.outcome is Outcome.INCOMPLETE, report.finding
    await publish(audit, [late])

    async def verified() -> bool:
        return verify((await audit.evidence())[0], audit.verifier).ok

    await eventually(verified)
    assert (await audit.store.run_leaves("acme", RUN, 100))[-1].event_id == late.id
