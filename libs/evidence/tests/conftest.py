"""A small log in memory, and the evidence of one run in it: what the audit service does, without its database."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from slipway_evidence.bundle import Bundle, Entry, Erased, attest, encode
from slipway_evidence.canonical import dump
from slipway_evidence.checkpoint import Checkpoint, Head
from slipway_evidence.event import GENESIS, commitment
from slipway_evidence.merkle import EMPTY_ROOT, Node, fold, inclusion_nodes, inclusion_proof, leaf_hash, node_hash
from slipway_evidence.note import SignerKey

RUN = "run_01jdqxf2k0e3vr6m5t8w9y2b4c"


class SmallLog:
    """A tenant's log. `add` appends an event and gives its id and commitment."""

    def __init__(self, tenant: str = "acme", seed: int = 1) -> None:
        self.tenant = tenant
        self.key = SignerKey.generate("slipway.dev/test")
        self.origin = f"{self.key.name}/{tenant}"
        self.leaves: list[tuple[bytes, str, bytes]] = []
        self._random = random.Random(seed)

    def event_id(self) -> str:
        alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
        return "aev_0" + "".join(self._random.choice(alphabet) for _ in range(25))

    def add(self, event_type: str, data: dict[str, Any], **members: Any) -> dict[str, str]:
        event = {
            "schema": 1,
            "id": self.event_id(),
            "type": event_type,
            "tenant": self.tenant,
            "time": "2026-11-24T12:00:00.5Z",
            "service": "orchestrator",
            "actor": {"subject": "alice", "kind": "user", "roles": ["operator"]},
            "data": data,
        } | members
        salt, text = self._random.randbytes(32), dump(event).decode()
        digest = commitment(salt, text.encode())
        self.leaves.append((digest, text, salt))
        return {"event_id": event["id"], "commitment": digest.hex()}

    def nodes(self) -> dict[Node, bytes]:
        hashes = {Node(0, i): leaf_hash(leaf[0]) for i, leaf in enumerate(self.leaves)}
        level, width = 0, len(self.leaves)
        while width > 1:
            width //= 2
            for i in range(width):
                hashes[Node(level + 1, i)] = node_hash(hashes[Node(level, 2 * i)], hashes[Node(level, 2 * i + 1)])
            level += 1
        return hashes

    def head(self) -> Head:
        nodes, size = self.nodes(), len(self.leaves)
        root = fold([nodes[node] for node in _decompose(size)]) if size else EMPTY_ROOT
        return Head(self.origin, size, root)

    def entry(self, index: int) -> Entry:
        digest, text, salt = self.leaves[index]
        nodes, size = self.nodes(), len(self.leaves)
        assert set(inclusion_nodes(index, size)) <= nodes.keys()
        return Entry(index, digest, tuple(inclusion_proof(index, size, nodes)), text, salt)

    def bundle(self, indexes: list[int], *, run_id: str = RUN, complete: bool = True) -> Bundle:
        entries = tuple(self.entry(index) for index in indexes)
        return Bundle(self.tenant, run_id, complete, Checkpoint(self.head()).sign(self.key), entries)

    def seal(self, bundle: Bundle) -> bytes:
        return encode(attest(bundle, self.origin, self.key))


def _decompose(size: int) -> list[Node]:
    from slipway_evidence.merkle import decompose

    return decompose(0, size)


class Story:
    """A run as the platform would write it: journal rows in a chain, records beside them, strangers in between."""

    def __init__(self) -> None:
        self.log = SmallLog()
        self.mine: list[int] = []
        self.last = GENESIS
        self.seq = 0
        self.more: dict[str, Any] = {}

    def note(self, event_type: str, data: dict[str, Any], **members: Any) -> dict[str, str]:
        self.mine.append(len(self.log.leaves))
        return self.log.add(event_type, data, **{"run_id": RUN} | members)

    def journal(self, kind: str, **data: Any) -> dict[str, str]:
        self.seq += 1
        members = {"kind": kind, "epoch": 1, "payload": dump(data).decode()}
        if data.get("records"):
            members["records"] = data["records"]
        members |= self.more
        reference = self.note("run.event", members, seq=self.seq, prev=self.last, subject="alice")
        self.last = reference["commitment"]
        return reference

    def stranger(self) -> None:
        self.log.add("tool.call", {"tool": "other"}, run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4d")

    def request(self, arguments: dict[str, Any], proposer: str = "alice") -> str:
        digest = "sha256:" + hashlib.sha256(dump(arguments)).hexdigest()
        self.journal(
            "approval.requested", approval_id="apr_1", arguments=arguments, arguments_digest=digest, proposer=proposer
        )
        return digest

    def decide(self, digest: str, decider: str | None = "bob", decision: str = "approve", **data: Any) -> None:
        record = self.note("approval.decision", {"approval_id": "apr_1", "decision": decision, "by": decider or "time"})
        self.journal(
            "approval.decided",
            approval_id="apr_1",
            decision=decision,
            decider=decider,
            arguments_digest=digest,
            records=[record],
            **data,
        )

    def tell(self, *, end: bool = True, decider: str | None = "bob", decision: str = "approve") -> "Story":
        self.stranger()
        self.journal("run.started", agent="refund-desk", input={"message": "Grüße 😀", "order": 7})
        model = self.note("model.call", {"model": "smollm2-135m", "cost_usd": "0.0001"}, service="router")
        self.stranger()
        self.journal("step.completed", output={"refund": 120.5}, records=[model])
        self.decide(self.request({"amount": 120.5}), decider, decision)
        if end:
            self.journal("run.succeeded", output={"reply": "done"})
        self.stranger()
        return self

    def bundle(self, *, complete: bool = True) -> Bundle:
        return self.log.bundle(self.mine, complete=complete)

    def erase(self, bundle: Bundle, number: int, claim: Erased) -> Bundle:
        entries = list(bundle.entries)
        entries[number] = replace(entries[number], event=None, salt=None, erased=claim)
        return replace(bundle, entries=tuple(entries))


@pytest.fixture
def log() -> SmallLog:
    return SmallLog()


@pytest.fixture
def story() -> Callable[[], Story]:
    return Story
