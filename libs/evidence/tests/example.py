"""The worked example of docs/evidence.md, made of fixed seeds: `python example.py` prints the section."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from slipway_evidence.bundle import Bundle, Entry, attest, encode
from slipway_evidence.canonical import Json, dump
from slipway_evidence.checkpoint import Checkpoint, Head
from slipway_evidence.event import GENESIS, commitment
from slipway_evidence.merkle import Node, fold, inclusion_proof, leaf_hash, node_hash
from slipway_evidence.note import SignerKey

RUN = "run_01jdqxf2k0e3vr6m5t8w9y2b4c"
KEY = SignerKey("slipway.dev/example", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SALTS = [bytes([0xA0 + number]) * 32 for number in range(3)]


def _event(number: int, event_type: str, data: dict[str, Json], **more: Json) -> str:
    event: dict[str, Json] = {
        "schema": 1,
        "id": f"aev_01jdqxf2k0e3vr6m5t8w9y2b5{number}",
        "type": event_type,
        "tenant": "acme",
        "time": f"2026-11-24T12:00:0{number}Z",
        "service": "orchestrator",
        "actor": {"subject": "alice"},
        "data": data,
    }
    return dump(event | more).decode()


def _journal(number: int, seq: int, prev: str, kind: str, payload: dict[str, Json]) -> str:
    data: dict[str, Json] = {"kind": kind, "payload": dump(payload).decode()}
    return _event(number, "run.event", data, run_id=RUN, seq=seq, prev=prev)


def build() -> tuple[bytes, str]:
    """The bundle, and the section that shows how it comes about."""
    texts = [_journal(0, 1, GENESIS, "run.started", {"input": {"order": 7}})]
    first = commitment(SALTS[0], texts[0].encode())
    texts.append(_event(1, "tool.call", {"tool": "python"}, run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4d"))
    texts.append(_journal(2, 2, first.hex(), "run.succeeded", {"output": 1.5}))
    digests = [commitment(salt, one.encode()) for salt, one in zip(SALTS, texts, strict=True)]
    leaves = [leaf_hash(one) for one in digests]
    pair = node_hash(leaves[0], leaves[1])
    nodes = {Node(0, 0): leaves[0], Node(0, 1): leaves[1], Node(0, 2): leaves[2], Node(1, 0): pair}
    origin, root = f"{KEY.name}/acme", fold([pair, leaves[2]])
    note = Checkpoint(Head(origin, 3, root)).sign(KEY)
    entries = tuple(
        Entry(index, digests[index], tuple(inclusion_proof(index, 3, nodes)), texts[index], SALTS[index])
        for index in (0, 2)
    )
    data = encode(attest(Bundle("acme", RUN, True, note, entries), origin, KEY))
    section = [
        "Verifier key:\n",
        f"    {KEY.verifier}\n",
        "Event of leaf 0 (the run's first), its commitment and its leaf hash:\n",
        f"    {texts[0]}",
        f"    {digests[0].hex()}",
        f"    {leaves[0].hex()}\n",
        "Leaf hashes of leaf 1 (another run's, not in the bundle) and leaf 2, the node above 0 and 1, and the root:\n",
        *(f"    {one.hex()}" for one in (leaves[1], leaves[2], pair)),
        f"    {root.hex()}\n",
        "Proof of leaf 0: leaf hash 1, leaf hash 2. Proof of leaf 2: the node above 0 and 1. Checkpoint:\n",
        *(f"    {line}".rstrip() for line in note.split("\n")),
        "The bundle, one line:\n",
        "```json",
        data.decode(),
        "```",
    ]
    return data, "\n".join(section) + "\n"


if __name__ == "__main__":
    print(build()[1], end="")
