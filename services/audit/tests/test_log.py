"""The log in the database: appends, the tree, heads, and what they refuse."""

import asyncio
import json
import random
from pathlib import Path

import asyncpg
import pytest
from audit_testing.service import Audit, key_ring
from audit_testing.writing import Writer, leaf
from slipway_audit.checkpoints import Checkpointer
from slipway_audit.errors import LogEmpty, LogInconsistent, LogRolledBack
from slipway_audit.heads_file import HeadsFolder
from slipway_audit.key_ring import KeyRing
from slipway_audit.keys import rotate
from slipway_audit.leaf import Leaf
from slipway_audit.restore import RestoreRefused, read_head, renew_all, restore
from slipway_evidence.checkpoint import Head, open_checkpoint
from slipway_evidence.merkle import (
    Frontier,
    consistency_nodes,
    consistency_proof,
    inclusion_nodes,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from slipway_evidence.note import SignerKey
from slipway_evidence.verify import verify


def plain_leaves(count: int, tenant: str = "acme", start: int = 0) -> list[Leaf]:
    """Leaves of no content: enough for the tree."""
    return [
        Leaf(tenant, f"aev_{number:026d}", "test.event", number.to_bytes(32, "big"))
        for number in range(start, start + count)
    ]


def root_of(leaves: list[Leaf]) -> bytes:
    frontier = Frontier(0, [])
    for one in leaves:
        frontier.append(leaf_hash(one.commitment))
    return frontier.root()


async def test_the_stored_tree_is_the_tree_of_its_leaves_at_every_size_and_proves_them(audit: Audit) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    leaves = plain_leaves(70_000)
    sizes = [1, 2, 255, 256, 257, 511, 700, 1200, 65_535, 65_536, 65_537, 66_000, 70_000]
    appended = 0
    for size in sizes:
        await audit.store.append("acme", leaves[appended:size])
        appended = size
        assert await audit.store.root("acme", size) == root_of(leaves[:size])
    root = root_of(leaves)
    for index in [0, 255, 256, 65_535, 65_536, 69_999, *(dice.randrange(70_000) for _ in range(20))]:
        nodes = await audit.store.nodes("acme", 70_000, inclusion_nodes(index, 70_000))
        proof = inclusion_proof(index, 70_000, nodes)
        verify_inclusion(index, 70_000, leaf_hash(leaves[index].commitment), proof, root)
    for first in [*sizes[:-1], *(dice.randrange(1, 70_000) for _ in range(10))]:
        nodes = await audit.store.nodes("acme", 70_000, consistency_nodes(first, 70_000))
        proof = consistency_proof(first, 70_000, nodes)
        verify_consistency(first, 70_000, root_of(leaves[:first]), root, proof)
    assert await audit.store.root("acme", 300) == root_of(leaves[:300])


async def test_appending_the_same_events_again_changes_nothing(audit: Audit) -> None:
    leaves = plain_leaves(10)
    await audit.store.append("acme", leaves)
    again = await audit.store.append("acme", [*leaves[5:], *plain_leaves(1, start=10), *leaves[:2]])
    assert (len(again.appended), again.size, again.conflicts) == (1, 11, ())


async def test_an_id_that_stands_for_another_event_is_refused_alone(audit: Audit) -> None:
    leaves = plain_leaves(2)
    forged = Leaf("acme", leaves[0].event_id, "test.event", b"\xff" * 32)
    done = await audit.store.append("acme", [leaves[0], forged, leaves[1]])
    assert (len(done.appended), done.conflicts) == (2, (forged,))


async def test_concurrent_writers_of_one_log_leave_no_gap_and_lose_nothing(audit: Audit) -> None:
    batches = [plain_leaves(37, start=100 * number) for number in range(12)]
    await asyncio.gather(*(audit.store.append("acme", batch) for batch in batches))
    indexes = [row["index"] for row in await audit.pool.fetch("SELECT index FROM audit_leaf ORDER BY index")]
    assert indexes == list(range(12 * 37))
    rows = await audit.pool.fetch("SELECT commitment FROM audit_leaf ORDER BY index")
    frontier = Frontier(0, [])
    for row in rows:
        frontier.append(leaf_hash(row["commitment"]))
    assert await audit.store.root("acme", len(rows)) == frontier.root()


async def test_tenants_have_logs_of_their_own(audit: Audit) -> None:
    await audit.store.append("acme", plain_leaves(3))
    await audit.store.append("globex", plain_leaves(5, "globex"))
    acme, globex = await audit.checkpointer.sign("acme"), await audit.checkpointer.sign("globex")
    assert (acme.size, globex.size) == (3, 5)
    heads = [open_checkpoint(one.note, audit.verifier).head.origin for one in (acme, globex)]
    assert heads == ["slipway.dev/test/acme", "slipway.dev/test/globex"]


async def test_a_head_is_signed_once_for_each_size_and_continues_the_last(audit: Audit) -> None:
    await audit.store.append("acme", plain_leaves(300))
    first = await audit.checkpointer.sign("acme")
    assert await audit.checkpointer.sign("acme") == first
    await audit.store.append("acme", plain_leaves(300, start=300))
    second = await audit.checkpointer.sign("acme")
    nodes = await audit.store.nodes("acme", 600, consistency_nodes(300, 600))
    verify_consistency(300, 600, first.root, second.root, consistency_proof(300, 600, nodes))
    lines = (audit.folder / "acme.heads.jsonl").read_text().splitlines()
    assert [json.loads(line)["note"] for line in lines] == [first.note, second.note]


async def test_a_head_that_many_ask_for_at_once_is_held_once(audit: Audit) -> None:
    held: list[str] = []
    for size in range(1, 6):
        await audit.store.append("acme", plain_leaves(1, start=size - 1))
        notes = {head.note for head in await asyncio.gather(*(audit.checkpointer.sign("acme") for _ in range(8)))}
        held += notes
        assert len(notes) == 1
    lines = (audit.folder / "acme.heads.jsonl").read_text().splitlines()
    assert [json.loads(line)["note"] for line in lines] == held


async def test_an_empty_log_has_no_head(audit: Audit) -> None:
    with pytest.raises(LogEmpty):
        await audit.checkpointer.sign("acme")


async def altered(audit: Audit, statement: str) -> None:
    """Do what a person with the database's password can do."""
    async with audit.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_leaf SET commitment = decode(repeat('ee', 32), 'hex') WHERE index = 299",
        "UPDATE audit_tile SET root = decode(repeat('ee', 32), 'hex')",
        "DELETE FROM audit_leaf WHERE index = 299",
        "UPDATE audit_log SET frontier = decode(repeat('ee', octet_length(frontier)), 'hex')",
        "UPDATE audit_checkpoint SET root = decode(repeat('ee', 32), 'hex')",
    ],
)
async def test_a_log_that_was_altered_in_the_database_is_not_signed_again(audit: Audit, statement: str) -> None:
    await audit.store.append("acme", plain_leaves(300))
    await audit.checkpointer.sign("acme")
    await altered(audit, statement)
    await audit.store.append("acme", plain_leaves(1, start=300))
    with pytest.raises(LogInconsistent):
        await audit.checkpointer.sign("acme")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_leaf SET commitment = commitment || commitment",
        "UPDATE audit_leaf SET index = index + 1000",
        "UPDATE audit_leaf SET sealed = 'x'",
        "DELETE FROM audit_leaf",
        "UPDATE audit_tile SET root = ''",
        "DELETE FROM audit_tile",
        "UPDATE audit_checkpoint SET note = ''",
        "DELETE FROM audit_checkpoint",
    ],
)
async def test_the_tables_of_the_log_only_take_additions(audit: Audit, statement: str) -> None:
    await audit.store.append("acme", plain_leaves(300))
    await audit.checkpointer.sign("acme")
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await audit.pool.execute(statement)


def ring_of(audit: Audit, key: SignerKey) -> KeyRing:
    return key_ring(key, audit.folder.with_name("keys"))


async def roll_back(audit: Audit, size: int, leaves: list[Leaf]) -> None:
    """What a restore from backup does: the database is as it was at a size; the heads' folder is not."""
    await altered(audit, "TRUNCATE audit_leaf, audit_tile, audit_checkpoint, audit_log")
    await audit.store.append("acme", leaves[:size])


async def test_a_log_restored_from_backup_is_not_signed_until_it_is_declared_a_new_one(
    audit: Audit, key: SignerKey
) -> None:
    leaves = plain_leaves(20)
    await audit.store.append("acme", leaves)
    old = await audit.checkpointer.sign("acme")
    await roll_back(audit, 12, leaves)
    with pytest.raises(LogRolledBack, match=r"slipway_audit\.restore"):
        await audit.checkpointer.sign("acme")
    # Also when it has grown past the old size with other leaves.
    await audit.store.append("acme", plain_leaves(20, start=500))
    with pytest.raises(LogInconsistent):
        await audit.checkpointer.sign("acme")

    head = read_head(audit.folder / "acme.heads.jsonl", ring_of(audit, key))
    assert await restore(audit.heads, key, "acme", head) == "slipway.dev/test/acme/2"
    signed = open_checkpoint((await audit.checkpointer.sign("acme")).note, audit.verifier)
    assert signed.head.origin == "slipway.dev/test/acme/2"
    assert signed.previous == Head("slipway.dev/test/acme", 20, old.root)
    await audit.store.append("acme", plain_leaves(1, start=900))
    assert (await audit.checkpointer.sign("acme")).size == 33


async def test_evidence_from_a_restored_log_verifies_and_names_the_old_head(audit: Audit, key: SignerKey) -> None:
    await audit.append(Writer().run())
    lost = plain_leaves(5)
    await audit.store.append("acme", lost)
    await audit.checkpointer.sign("acme")
    await altered(audit, "TRUNCATE audit_leaf, audit_tile, audit_checkpoint, audit_log")
    await audit.append(Writer().run())
    await restore(
        audit.heads,
        key,
        "acme",
        read_head(audit.folder / "acme.heads.jsonl", ring_of(audit, key)),
    )
    data, _ = await audit.evidence()
    report = verify(data, audit.verifier)
    assert report.ok, report.finding
    assert report.summary is not None
    assert report.summary.previous is not None
    assert report.summary.previous.size == 12


async def test_all_logs_go_on_as_new_ones_in_an_installation_made_of_a_backup(audit: Audit, key: SignerKey) -> None:
    await audit.append(Writer().run())
    await audit.checkpointer.sign("acme")
    assert await renew_all(audit.heads, ring_of(audit, key), HeadsFolder(audit.folder)) == ["slipway.dev/test/acme/2"]
    data, _ = await audit.evidence()
    report = verify(data, audit.verifier)
    assert report.ok, report.finding
    assert report.summary is not None
    assert report.summary.previous is not None
    assert report.summary.previous.origin == "slipway.dev/test/acme"


async def test_a_key_is_rotated_while_the_log_grows_and_each_bundle_verifies_by_the_key_of_its_time(
    audit: Audit, tmp_path: Path
) -> None:
    await audit.append(Writer().run())
    old = audit.verifier
    before, _ = await audit.evidence()
    last = (await audit.checkpointer.sign("acme")).size
    await audit.store.append("acme", plain_leaves(3, start=700))
    rotate(tmp_path / "keys")
    await audit.store.append("acme", plain_leaves(3, start=800))
    after, _ = await audit.evidence()
    new = audit.verifier
    assert str(new) != str(old)
    assert (tmp_path / "keys" / "log.vkey").read_text().splitlines() == [str(new), str(old)]
    assert verify(before, old).ok
    report = verify(after, new)
    assert report.ok, report.finding
    assert report.summary is not None
    assert report.summary.previous is not None
    # Every head of the old key stays what it was; the new log names the last of them.
    assert report.summary.previous.size >= last
    assert not verify(after, old).ok
    # A process that starts now goes on where this one is.
    ring = key_ring(SignerKey.generate("slipway.dev/unused"), tmp_path / "keys")
    restarted = Checkpointer(audit.heads, HeadsFolder(audit.folder), ring)
    newest = open_checkpoint((await restarted.sign("acme")).note, new)
    assert newest.head.origin == "slipway.dev/test/acme/2"


async def test_a_log_that_holds_its_newest_head_is_not_made_a_new_one(audit: Audit, key: SignerKey) -> None:
    await audit.store.append("acme", plain_leaves(5))
    note = (await audit.checkpointer.sign("acme")).note
    await audit.store.append("acme", plain_leaves(5, start=5))
    with pytest.raises(RestoreRefused, match="holds all leaves"):
        await restore(audit.heads, key, "acme", open_checkpoint(note, audit.verifier).head)
    with pytest.raises(RestoreRefused, match="head is one of"):
        await restore(audit.heads, key, "acme", Head("slipway.dev/test/globex", 9, b"\0" * 32))
    with pytest.raises(LogEmpty):
        await restore(audit.heads, key, "initech", Head("slipway.dev/test/initech", 9, b"\0" * 32))


async def test_a_head_that_the_file_lost_is_written_again_and_a_torn_line_is_survived(
    audit: Audit, key: SignerKey
) -> None:
    await audit.store.append("acme", plain_leaves(5))
    first = await audit.checkpointer.sign("acme")
    file = audit.folder / "acme.heads.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    another = Checkpointer(audit.heads, HeadsFolder(audit.folder / "other"), ring_of(audit, key))
    assert await another.sign("acme") == first
    assert json.loads((audit.folder / "other" / "acme.heads.jsonl").read_text())["note"] == first.note
    with pytest.raises(LogInconsistent, match="no signed head"):
        await audit.checkpointer.sign("acme")
    file.write_text(json.dumps({"note": first.note}) + '\n{"note": "sli')
    await audit.store.append("acme", plain_leaves(5, start=5))
    second = await audit.checkpointer.sign("acme")
    lines = file.read_text().splitlines()
    assert json.loads(lines[2])["note"] == second.note


async def test_a_folder_with_heads_of_another_key_is_refused(audit: Audit, tmp_path: Path) -> None:
    await audit.store.append("acme", plain_leaves(5))
    await audit.checkpointer.sign("acme")
    other = key_ring(SignerKey.generate("slipway.dev/other"), tmp_path / "other")
    stranger = Checkpointer(audit.heads, HeadsFolder(audit.folder), other)
    await audit.store.append("acme", plain_leaves(1, start=5))
    with pytest.raises(LogInconsistent, match="not one of this key"):
        await stranger.sign("acme")


async def test_content_is_sealed_at_rest(audit: Audit) -> None:
    await audit.append(Writer().run())
    rows = await audit.pool.fetch("SELECT * FROM audit_leaf")
    stored = b"".join(row["sealed"] for row in rows)
    assert "Grüße".encode() not in stored
    assert b"run.started" not in stored
    assert leaf(Writer().run().messages[0]).content not in stored


async def test_destroying_a_subjects_key_leaves_proofs_and_verification_whole(audit: Audit) -> None:
    run = Writer().run()
    run.subject = "bob"
    kept = run.event("tool.call", {"tool": "python"})
    await audit.append(run)
    before, _ = await audit.evidence()
    assert verify(before, audit.verifier).ok
    async with audit.pool.acquire() as connection:
        assert await audit.keys.erase(connection, "acme", "alice")
    data, complete = await audit.evidence()
    report = verify(data, audit.verifier)
    assert report.ok, report.finding
    assert complete
    assert report.summary is not None
    assert len(report.summary.erased) == 7
    assert "Grüße".encode() not in data
    assert kept.event_id.encode() in data
    assert verify(before, audit.verifier).ok
