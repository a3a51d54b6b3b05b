"""Evidence, the log and its proofs over gRPC: what is exported verifies with the public key alone."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from audit_testing.service import Audit
from audit_testing.writing import RUN, Writer
from slipway.audit.v1 import audit_pb2 as pb
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_evidence.checkpoint import open_checkpoint
from slipway_evidence.merkle import leaf_hash, verify_consistency, verify_inclusion
from slipway_evidence.verify import Outcome, verify

Wait = Callable[..., Any]


async def test_a_finished_runs_evidence_verifies(audit: Audit) -> None:
    await audit.append(Writer(run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4d").run(), Writer().run())
    data, complete = await audit.evidence()
    report = verify(data, audit.verifier)
    assert report.ok, report.finding
    assert complete
    assert report.summary is not None
    assert (report.summary.run_id, report.summary.entries, report.summary.decisions) == (RUN, 7, 1)


async def test_a_large_bundle_comes_in_parts_and_whole(audit: Audit) -> None:
    writer = Writer()
    writer.journal("run.started", input="x" * 300_000)
    writer.journal("run.succeeded", output="y" * 300_000)
    await audit.append(writer)
    data, complete = await audit.evidence()
    assert len(data) > 600_000
    assert complete
    assert verify(data, audit.verifier).ok


async def test_the_evidence_of_a_run_that_goes_on_is_marked_incomplete(audit: Audit) -> None:
    await audit.append(Writer().run(end=False))
    data, complete = await audit.evidence()
    assert not complete
    assert verify(data, audit.verifier).outcome is Outcome.INCOMPLETE


async def test_a_record_of_another_run_comes_along_when_the_journal_refers_to_it(audit: Audit) -> None:
    first = Writer(run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4d")
    record = first.record("model.call", model="smollm2-135m")
    second = Writer()
    second.journal("run.started", records=[record])
    second.journal("run.succeeded")
    await audit.append(first, second)
    data, complete = await audit.evidence()
    assert complete
    assert verify(data, audit.verifier).ok


async def test_another_tenants_run_is_not_found_whatever_the_role(audit: Audit) -> None:
    await audit.append(Writer().run())
    for roles in (("auditor",), ("platform-admin",), ()):
        with pytest.raises(SlipwayError) as caught:
            await audit.evidence(token=audit.token("gina", roles, "globex"))
        assert (caught.value.kind, caught.value.reason) == (ErrorKind.NOT_FOUND, "RUN_NOT_FOUND")
    with pytest.raises(SlipwayError) as caught:
        await audit.evidence("run_01jdqxf2k0e3vr6m5t8w9y2b4q")
    assert caught.value.reason == "RUN_NOT_FOUND"
    with pytest.raises(SlipwayError) as caught:
        await audit.evidence("")
    assert caught.value.reason == "RUN_NOT_FOUND"


async def test_reading_needs_a_permission(audit: Audit) -> None:
    await audit.append(Writer().run())
    erin = audit.token("erin", ())
    with pytest.raises(SlipwayError) as caught:
        await audit.evidence(token=erin)
    assert caught.value.reason == "POLICY_DENIED"
    for method, request in (
        ("ListAuditEvents", pb.ListAuditEventsRequest()),
        ("GetCheckpoint", pb.GetCheckpointRequest()),
        ("GetInclusionProof", pb.GetInclusionProofRequest()),
        ("GetConsistencyProof", pb.GetConsistencyProofRequest(first_size=1)),
    ):
        with pytest.raises(SlipwayError) as caught:
            await audit.call(method, request, erin)
        assert caught.value.reason == "POLICY_DENIED", method
    operator = audit.token("alice", ("operator",))
    assert (await audit.call("GetCheckpoint", pb.GetCheckpointRequest(), operator)).tree_size == 7
    with pytest.raises(SlipwayError) as caught:
        await audit.call("ListAuditEvents", pb.ListAuditEventsRequest(), operator)
    assert caught.value.reason == "POLICY_DENIED"


async def test_an_export_and_a_reading_are_events_of_the_log_themselves(audit: Audit, eventually: Wait) -> None:
    await audit.append(Writer().run())
    data, _ = await audit.evidence()
    await audit.call("ListAuditEvents", pb.ListAuditEventsRequest(run_id=RUN))

    async def recorded() -> list[Any]:
        found = await audit.store.page("acme", "", "audit.exported", -1, 10)
        return found + await audit.store.page("acme", "", "audit.read", -1, 10)

    async def both() -> bool:
        return len(await recorded()) == 2

    await eventually(both)
    exported, read = [json.loads(leaf.event or "") for leaf in await recorded()]
    import hashlib

    assert exported["actor"]["subject"] == "carol"
    assert exported["data"]["run_id"] == RUN
    assert exported["data"]["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
    assert exported["policy"]["policies"] == ["auditor-reads"]
    assert read["data"] == {"after": -1, "events": 7, "limit": 100, "run_id": RUN}


async def test_the_log_is_paged_in_order_and_filtered(audit: Audit) -> None:
    writers = [Writer(run_id=f"run_01jdqxf2k0e3vr6m5t8w9y2b4{letter}").run() for letter in "de"]
    await audit.append(*writers, Writer("globex").run())
    seen: list[Any] = []
    token = ""
    while True:
        request = pb.ListAuditEventsRequest(page_size=3, page_token=token, run_id=writers[1].run_id)
        page = await audit.call("ListAuditEvents", request)
        seen += page.events
        token = page.next_page_token
        if not token:
            break
    assert [event.index for event in seen] == list(range(7, 14))
    assert [event.event_id for event in seen] == [one.id for one in writers[1].messages]
    first = json.loads(writers[1].messages[0].body)
    assert (seen[0].event_json, seen[0].salt, seen[0].commitment) == (
        first["event"],
        first["salt"],
        first["commitment"],
    )
    assert seen[0].time.ToDatetime().isoformat() in json.loads(first["event"])["time"]
    kinds = await audit.call("ListAuditEvents", pb.ListAuditEventsRequest(type="model.call"))
    assert [event.type for event in kinds.events] == ["model.call"] * 2


async def test_a_page_token_of_another_tenant_or_filter_is_refused(audit: Audit) -> None:
    await audit.append(Writer().run(), Writer("globex").run())
    page = await audit.call("ListAuditEvents", pb.ListAuditEventsRequest(page_size=2))
    token = page.next_page_token
    for request, bearer in (
        (pb.ListAuditEventsRequest(page_token=token), audit.token("gina", ("auditor",), "globex")),
        (pb.ListAuditEventsRequest(page_token=token, type="model.call"), audit.token()),
        (pb.ListAuditEventsRequest(page_token="x" + token), audit.token()),
        (pb.ListAuditEventsRequest(page_size=-1), audit.token()),
        (pb.ListAuditEventsRequest(run_id="\x00"), audit.token()),
    ):
        with pytest.raises(SlipwayError) as caught:
            await audit.call("ListAuditEvents", request, bearer)
        assert caught.value.kind is ErrorKind.INVALID_ARGUMENT


async def test_proofs_hold_against_the_checkpoint(audit: Audit) -> None:
    writer = Writer().run()
    await audit.append(writer)
    old = await audit.call("GetCheckpoint", pb.GetCheckpointRequest())
    await audit.append(Writer(run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4d").run())
    new = await audit.call("GetCheckpoint", pb.GetCheckpointRequest())
    old_head = open_checkpoint(old.note, audit.verifier).head
    new_head = open_checkpoint(new.note, audit.verifier).head
    assert (old.tree_size, new.tree_size) == (old_head.size, new_head.size) == (7, 14)
    assert new.verifier_key == str(audit.verifier)

    proof = await audit.call("GetInclusionProof", pb.GetInclusionProofRequest(event_id=writer.messages[3].id))
    commitment = bytes.fromhex(json.loads(writer.messages[3].body)["commitment"])
    assert (proof.index, proof.tree_size, proof.leaf_hash) == (3, 14, leaf_hash(commitment))
    verify_inclusion(3, 14, proof.leaf_hash, list(proof.hashes), new_head.root)
    small = await audit.call("GetInclusionProof", pb.GetInclusionProofRequest(index=3, tree_size=7))
    verify_inclusion(3, 7, small.leaf_hash, list(small.hashes), old_head.root)
    assert small.root_hash == old_head.root

    grown = await audit.call("GetConsistencyProof", pb.GetConsistencyProofRequest(first_size=7))
    verify_consistency(7, 14, old_head.root, new_head.root, list(grown.hashes))
    assert (grown.first_root_hash, grown.second_root_hash) == (old_head.root, new_head.root)


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    [
        ("GetInclusionProof", pb.GetInclusionProofRequest(index=7), "AUDIT_EVENT_NOT_FOUND"),
        ("GetInclusionProof", pb.GetInclusionProofRequest(index=-1), "AUDIT_EVENT_NOT_FOUND"),
        ("GetInclusionProof", pb.GetInclusionProofRequest(event_id="aev_x"), "AUDIT_EVENT_NOT_FOUND"),
        ("GetInclusionProof", pb.GetInclusionProofRequest(index=3, event_id="aev_x"), "INVALID_ARGUMENT"),
        ("GetInclusionProof", pb.GetInclusionProofRequest(index=3, tree_size=3), "TREE_SIZE_INVALID"),
        ("GetInclusionProof", pb.GetInclusionProofRequest(index=3, tree_size=8), "TREE_SIZE_INVALID"),
        ("GetInclusionProof", pb.GetInclusionProofRequest(index=3, tree_size=-1), "TREE_SIZE_INVALID"),
        ("GetConsistencyProof", pb.GetConsistencyProofRequest(first_size=0), "TREE_SIZE_INVALID"),
        ("GetConsistencyProof", pb.GetConsistencyProofRequest(first_size=8), "TREE_SIZE_INVALID"),
        ("GetConsistencyProof", pb.GetConsistencyProofRequest(first_size=5, second_size=4), "TREE_SIZE_INVALID"),
    ],
)
async def test_proofs_of_what_is_not_there_are_refused(audit: Audit, method: str, request_: Any, reason: str) -> None:
    await audit.append(Writer().run())
    await audit.checkpointer.sign("acme")
    with pytest.raises(SlipwayError) as caught:
        await audit.call(method, request_)
    assert caught.value.reason == reason


async def test_a_tenant_without_events_has_no_checkpoint(audit: Audit) -> None:
    with pytest.raises(SlipwayError) as caught:
        await audit.call("GetCheckpoint", pb.GetCheckpointRequest())
    assert caught.value.reason == "AUDIT_LOG_EMPTY"
