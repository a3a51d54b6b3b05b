"""A second verifier, written from docs/evidence.md alone: it shares no line with the first.

Usage: `python second_verifier.py BUNDLE KEY_FILE` prints `ok`, or the code of what does not hold.
"""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HEX = re.compile(r"[0-9a-f]{64}")
EVENT_ID = re.compile(r"aev_[0-7][0123456789abcdefghjkmnpqrstvwxyz]{25}")
LINE = re.compile(r"[^\x00-\x1f\x7f]{1,1024}")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")
ENDS = ("run.succeeded", "run.failed", "run.cancelled")


class Wrong(Exception):
    """Holds a code of section 4."""


def need(condition: object, code: str) -> None:
    if not condition:
        raise Wrong(code)


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def hexadecimal(value: Any) -> bool:
    return isinstance(value, str) and HEX.fullmatch(value) is not None


def depth(value: Any) -> int:
    """Levels of nesting; a scalar has none."""
    deepest, stack = 0, [(value, 0)]
    while stack:
        one, level = stack.pop()
        deepest = max(deepest, level)
        children = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        stack += [(child, level + 1) for child in children]
    return deepest


def canonical(data: bytes, not_json: str, not_canonical: str) -> Any:
    def constant(_: str) -> None:
        raise Wrong(not_json)

    try:
        value = json.loads(data.decode("utf-8"), parse_constant=constant)
    except (ValueError, RecursionError):
        raise Wrong(not_json) from None
    need(depth(value) <= 64, not_json)
    # Whole numbers beyond 2^53 are doubles to RFC 8785.
    try:
        need(rfc8785.dumps(doubles(value)) == data, not_canonical)
    except (rfc8785.CanonicalizationError, ValueError, OverflowError):
        raise Wrong(not_canonical) from None
    return value


def doubles(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: doubles(one) for name, one in value.items()}
    if isinstance(value, list):
        return [doubles(one) for one in value]
    return float(value) if type(value) is int and abs(value) >= 2**53 else value


def unbase64(value: str) -> bytes | None:
    try:
        raw = base64.b64decode(value, validate=True)
    except ValueError:
        return None
    return raw if base64.b64encode(raw).decode() == value else None


def name_is_good(name: str) -> bool:
    return name != "" and not any(char.isspace() or char == "+" for char in name)


class Key:
    """Section 1.2."""

    def __init__(self, line: str) -> None:
        self.name, _, encoded = line.strip().split("+", 2)
        self.public = base64.b64decode(encoded)[1:]
        self.id = sha(self.name.encode(), b"\n\x01", self.public)[:4]

    def open(self, note: str, member: str) -> str:
        """The text of a note of this key (checks 8 and 9, 20 and 21)."""
        form = f"{member}_format"
        need(len(note.encode()) <= 65536 and note.endswith("\n"), form)
        need(all(char >= " " or char == "\n" for char in note), form)
        lines = note[:-1].split("\n")
        need(len(lines) >= 3 and lines[-2] == "" and lines[-1] != "", form)
        match = re.fullmatch(r"— ([^ ]+) ([^ ]+)", lines[-1])
        need(match, form)
        assert match is not None
        raw = unbase64(match[2])
        need(name_is_good(match[1]) and raw is not None and len(raw) > 4, form)
        assert raw is not None
        signed = "\n".join(lines[:-2]) + "\n"
        need(match[1] == self.name and raw[:4] == self.id, f"{member}_signature")
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(raw[4:], signed.encode())
        except InvalidSignature:
            raise Wrong(f"{member}_signature") from None
        return signed


def head(origin: str, size: str, root: str) -> tuple[int, bytes]:
    code = "checkpoint_format"
    need(origin != "" and re.fullmatch(r"0|[1-9][0-9]{0,15}", size) and int(size) < 2**53, code)
    raw = unbase64(root)
    need(raw is not None and len(raw) == 32, code)
    assert raw is not None
    return int(size), raw


def checkpoint(signed: str, key: Key, tenant: str) -> tuple[str, int, bytes]:
    lines = signed[:-1].split("\n")
    need(len(lines) >= 3 and all(lines), "checkpoint_format")
    size, root = head(*lines[:3])
    previous = [line for line in lines[3:] if line.startswith("previous-log ")]
    need(len(previous) <= 1, "checkpoint_format")
    for line in previous:
        parts = line.split(" ")
        need(len(parts) == 4, "checkpoint_format")
        head(*parts[1:])
    own = f"{key.name}/{tenant}"
    generation = lines[0].removeprefix(own)
    numbered = re.fullmatch(r"/[1-9][0-9]{0,8}", generation) and generation != "/1"
    need(lines[0].startswith(own) and (generation == "" or numbered), "checkpoint_origin")
    return lines[0], size, root


def bundle_form(bundle: Any) -> None:
    need(isinstance(bundle, dict), "bundle_format")
    need(bundle.get("format") == "slipway-evidence/1", "unknown_format")
    members = {"format", "tenant", "run_id", "complete", "checkpoint", "entries", "attestation"}
    need(set(bundle) == members, "bundle_format")
    need(all(text(bundle[name]) for name in ("tenant", "run_id", "checkpoint", "attestation")), "bundle_format")
    need(bundle["complete"] is True or bundle["complete"] is False, "bundle_format")
    need(isinstance(bundle["entries"], list) and len(bundle["entries"]) <= 100_000, "bundle_format")
    for entry in bundle["entries"]:
        need(entry_form(entry), "entry_format")


def entry_form(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    if "erased" in entry:
        said = entry["erased"]
        if set(entry) != {"index", "commitment", "proof", "erased"} or not isinstance(said, dict):
            return False
        journal = "seq" in said
        if set(said) != ({"id", "type", "seq", "kind"} if journal else {"id", "type"}):
            return False
        if not (isinstance(said["id"], str) and EVENT_ID.fullmatch(said["id"]) and text(said["type"])):
            return False
        if journal and not (whole(said["seq"], 1) and text(said["kind"])):
            return False
    elif set(entry) != {"index", "commitment", "proof", "event", "salt"} or not (
        isinstance(entry["event"], str) and hexadecimal(entry["salt"])
    ):
        return False
    proof = entry["proof"]
    return (
        whole(entry["index"], 0)
        and hexadecimal(entry["commitment"])
        and isinstance(proof, list)
        and len(proof) <= 64
        and all(hexadecimal(step) for step in proof)
    )


def root_of(index: int, size: int, leaf: bytes, proof: list[bytes]) -> bytes:
    """The root that an audit path leads to, by the recursion of RFC 6962, 2.1.1, from the outside in."""
    if size == 1:
        need(not proof, "inclusion_proof")
        return leaf
    need(proof, "inclusion_proof")
    half = 1 << (size - 1).bit_length() - 1
    if index < half:
        return sha(b"\x01", root_of(index, half, leaf, proof[:-1]), proof[-1])
    return sha(b"\x01", proof[-1], root_of(index - half, size - half, leaf, proof[:-1]))


def event_form(event: Any) -> bool:
    """Section 2."""
    allowed = [
        "schema",
        "id",
        "type",
        "tenant",
        "time",
        "service",
        "actor",
        "subject",
        "resource",
        "run_id",
        "seq",
        "prev",
        "policy",
        "trace_id",
        "data",
    ]
    if not isinstance(event, dict) or not set(event) <= set(allowed):
        return False
    required = (
        whole(event.get("schema"), 1)
        and event["schema"] == 1
        and isinstance(event.get("id"), str)
        and EVENT_ID.fullmatch(event["id"])
        and all(isinstance(event.get(name), str) and LINE.fullmatch(event[name]) for name in ("type", "service"))
        and isinstance(event.get("tenant"), str)
        and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", event["tenant"])
        and isinstance(event.get("time"), str)
        and TIME.fullmatch(event["time"])
        and isinstance(event.get("data"), dict)
        and isinstance(event.get("actor"), dict)
        and isinstance(event["actor"].get("subject"), str)
    )
    if not required or ("policy" in event and not isinstance(event["policy"], dict)):
        return False
    for name in ("subject", "resource", "run_id", "trace_id"):
        value = event.get(name, "")
        if not isinstance(value, str) or (value != "" and not LINE.fullmatch(value)):
            return False
    if "seq" not in event:
        return "prev" not in event
    if not (whole(event["seq"], 1) and event.get("run_id") and hexadecimal(event.get("prev"))):
        return False
    return event["seq"] > 1 or event["prev"] == "0" * 64


def entries(bundle: Any, size: int, root: bytes) -> list[Any]:
    """Check 12; answers with the events, None where erased."""
    events: list[Any] = []
    last = -1
    for entry in bundle["entries"]:
        need(entry["index"] > last, "entry_order")
        last = entry["index"]
        event = None
        if "erased" not in entry:
            raw = entry["event"].encode()
            need(sha(bytes.fromhex(entry["salt"]), raw).hex() == entry["commitment"], "commitment_mismatch")
            need(len(raw) <= 4 << 20, "event_format")
            event = canonical(raw, "event_format", "event_format")
            need(event_form(event), "event_format")
            need(event["tenant"] == bundle["tenant"], "event_tenant")
        need(last < size, "inclusion_proof")
        leaf = sha(b"\x00", bytes.fromhex(entry["commitment"]))
        path = [bytes.fromhex(step) for step in entry["proof"]]
        need(root_of(last, size, leaf, path) == root, "inclusion_proof")
        events.append(event)
    return events


def row_of(event: Any, commitment: str) -> dict[str, Any]:
    """Check 14."""
    code, data = "journal_format", event["data"]
    need(event["type"] == "run.event" and text(data.get("kind")) and isinstance(data.get("payload"), str), code)
    payload = canonical(data["payload"].encode(), code, code)
    need(isinstance(payload, dict) and isinstance(data.get("payloads", {}), dict), code)
    need(payload.get("records", []) == data.get("records", []), code)
    return {
        "seq": event["seq"],
        "kind": data["kind"],
        "prev": event["prev"],
        "commitment": commitment,
        "payload": payload,
        "apart": data.get("payloads", {}),
    }


def chain(rows: list[dict[str, Any]]) -> None:
    """Check 15."""
    seen, before = 0, "0" * 64
    for row in rows:
        need(row["seq"] != seen, "journal_duplicate")
        need(row["seq"] == seen + 1, "journal_gap")
        need(row["prev"] is None or row["prev"] == before, "journal_chain")
        need(row["kind"] not in ENDS or row is rows[-1], "journal_after_end")
        seen, before = row["seq"], row["commitment"]


def referred(rows: list[dict[str, Any]], shown: dict[str, str]) -> list[str]:
    """Check 16."""
    ids: list[str] = []
    for row in rows:
        records = (row["payload"] or {}).get("records", [])
        need(isinstance(records, list), "record_format")
        for record in records:
            need(isinstance(record, dict) and isinstance(record.get("event_id"), str), "record_format")
            need(EVENT_ID.fullmatch(record["event_id"]) and hexadecimal(record.get("commitment")), "record_format")
            ids.append(record["event_id"])
            need(shown.get(ids[-1], record["commitment"]) == record["commitment"], "record_mismatch")
    return ids


def approvals(rows: list[dict[str, Any]]) -> None:
    """Check 18."""
    requests: dict[str, Any] = {}
    hidden = any(row["payload"] is None and row["kind"] == "approval.requested" for row in rows)
    for row in rows:
        payload = row["payload"]
        if payload is None or row["kind"] not in ("approval.requested", "approval.decided"):
            continue
        name = payload.get("approval_id")
        need(text(name), "approval_format")
        if row["kind"] == "approval.requested":
            need(text(payload.get("proposer")), "approval_format")
            if "arguments" in payload:
                digest = "sha256:" + sha(rfc8785.dumps(doubles(payload["arguments"]))).hex()
            else:
                apart = row["apart"].get("arguments")
                digest = apart.get("digest") if isinstance(apart, dict) else None
            need(payload.get("arguments_digest") == digest, "approval_digest")
            requests[name] = payload
        elif payload.get("refused") is None:
            need(name in requests or hidden, "approval_unrequested")
            if name in requests:
                decided(payload, requests[name])


def decided(payload: Any, request: Any) -> None:
    need(payload.get("arguments_digest") == request["arguments_digest"], "approval_digest")
    decider = payload.get("decider")
    if decider is None and payload.get("decision") == "expire":
        return
    need(text(decider), "approval_format")
    need(decider != request["proposer"], "approval_self")


def verify(data: bytes, key_line: str) -> str:
    """`ok`, or the code of the first check of section 4 that fails."""
    try:
        return _verify(data, Key(key_line))
    except Wrong as wrong:
        return str(wrong)


def _verify(data: bytes, key: Key) -> str:
    need(len(data) <= 256 << 20, "bundle_too_large")
    bundle = canonical(data, "not_json", "not_canonical")
    bundle_form(bundle)
    origin, size, root = checkpoint(key.open(bundle["checkpoint"], "checkpoint"), key, bundle["tenant"])
    events = entries(bundle, size, root)
    shown: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for entry, event in zip(bundle["entries"], events, strict=True):
        event_id = event["id"] if event is not None else entry["erased"]["id"]
        need(event_id not in shown, "event_duplicate")
        shown[event_id] = entry["commitment"]
    for entry, event in zip(bundle["entries"], events, strict=True):
        if event is None:
            said = entry["erased"]
            if "seq" in said:
                rows.append(said | {"prev": None, "payload": None, "commitment": entry["commitment"]})
        elif "seq" in event and event["run_id"] == bundle["run_id"]:
            rows.append(row_of(event, entry["commitment"]))
    rows.sort(key=lambda row: row["seq"])
    chain(rows)
    ids = referred(rows, shown)
    for event in events:
        own = event is None or event.get("run_id") == bundle["run_id"] or event["id"] in ids
        need(own, "event_run")
    approvals(rows)
    absent = "record_missing" if any(one not in shown for one in ids) else ""
    if not absent and (not rows or rows[-1]["kind"] not in ENDS):
        absent = "journal_unterminated"
    need(not (bundle["complete"] and absent), absent)
    need(bundle["complete"] or absent, "complete_mismatch")
    body = rfc8785.dumps({name: value for name, value in bundle.items() if name != "attestation"})
    attested = key.open(bundle["attestation"], "attestation")
    expected = f"slipway-evidence/1\n{origin}\n{bundle['run_id']}\n{sha(body).hex()}\n"
    need(attested == expected, "attestation_mismatch")
    return "incomplete" if absent else "ok"


if __name__ == "__main__":
    print(verify(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_text()))
