"""The evidence bundle: one canonical JSON document. `docs/evidence.md` specifies it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from slipway_evidence.canonical import CanonicalError, Json, check_canonical, dump, parse
from slipway_evidence.event import is_event_id, is_hex32
from slipway_evidence.note import SignerKey

FORMAT = "slipway-evidence/1"
MAX_BUNDLE_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 100_000
MAX_PROOF_HASHES = 64
_MEMBERS = {"format", "tenant", "run_id", "complete", "checkpoint", "entries", "attestation"}


class BundleError(ValueError):
    """A document is not a bundle: a stable code, and where (a JSON pointer, RFC 6901)."""

    def __init__(self, code: str, message: str, position: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.position = position


@dataclass(frozen=True, slots=True)
class Erased:
    """What the log's keeper says about a leaf whose content was erased; only the attestation vouches for it."""

    id: str
    type: str
    seq: int | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A leaf of the log with its audit path. Either `event` and `salt` are there, or `erased` is."""

    index: int
    commitment: bytes
    proof: tuple[bytes, ...]
    event: str | None = None
    salt: bytes | None = None
    erased: Erased | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """Evidence of one run."""

    tenant: str
    run_id: str
    complete: bool
    checkpoint: str
    entries: tuple[Entry, ...]
    attestation: str = ""


def attestation_text(origin: str, run_id: str, digest: str) -> str:
    """Text that the log's key signs over a bundle; `digest` is that of the bundle without its attestation."""
    return f"{FORMAT}\n{origin}\n{run_id}\n{digest}\n"


def encode(bundle: Bundle) -> bytes:
    """The bundle's bytes."""
    return dump(_document(bundle))


def body(bundle: Bundle) -> bytes:
    """What the attestation covers: the canonical bundle without the member `attestation`."""
    document = _document(bundle)
    document.pop("attestation")
    return dump(document)


def attest(bundle: Bundle, origin: str, key: SignerKey) -> Bundle:
    """The bundle with the attestation of its log's key."""
    digest = hashlib.sha256(body(bundle)).hexdigest()
    return replace(bundle, attestation=key.sign(attestation_text(origin, bundle.run_id, digest)))


def _document(bundle: Bundle) -> dict[str, Json]:
    return {
        "format": FORMAT,
        "tenant": bundle.tenant,
        "run_id": bundle.run_id,
        "complete": bundle.complete,
        "checkpoint": bundle.checkpoint,
        "entries": [_entry_document(entry) for entry in bundle.entries],
        "attestation": bundle.attestation,
    }


def _entry_document(entry: Entry) -> dict[str, Json]:
    document: dict[str, Json] = {
        "index": entry.index,
        "commitment": entry.commitment.hex(),
        "proof": [step.hex() for step in entry.proof],
    }
    if entry.event is not None and entry.salt is not None:
        document |= {"event": entry.event, "salt": entry.salt.hex()}
    if entry.erased is not None:
        claim: dict[str, Json] = {"id": entry.erased.id, "type": entry.erased.type}
        if entry.erased.seq is not None:
            claim |= {"seq": entry.erased.seq, "kind": entry.erased.kind}
        document["erased"] = claim
    return document


def decode(data: bytes) -> Bundle:
    """Read a bundle. Raises BundleError with the code of the first rule that the bytes break."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleError("bundle_too_large", f"a bundle is at most {MAX_BUNDLE_BYTES} bytes long")
    try:
        value = parse(data)
    except CanonicalError as error:
        raise BundleError("not_json", str(error)) from None
    try:
        check_canonical(value, data)
    except CanonicalError as error:
        raise BundleError("not_canonical", str(error)) from None
    if not isinstance(value, dict):
        raise BundleError("bundle_format", "a bundle is a JSON object")
    if value.get("format") != FORMAT:
        raise BundleError("unknown_format", f"not {FORMAT}, the format that this verifier knows", "/format")
    _exact(value, _MEMBERS, "", "bundle_format")
    for name in ("tenant", "run_id", "checkpoint", "attestation"):
        if not isinstance(value[name], str) or not value[name]:
            raise BundleError("bundle_format", "empty or not text", f"/{name}")
    if not isinstance(value["complete"], bool):
        raise BundleError("bundle_format", "not true or false", "/complete")
    if not isinstance(value["entries"], list) or len(value["entries"]) > MAX_ENTRIES:
        raise BundleError("bundle_format", f"not a list of at most {MAX_ENTRIES}", "/entries")
    return Bundle(
        tenant=cast("str", value["tenant"]),
        run_id=cast("str", value["run_id"]),
        complete=value["complete"],
        checkpoint=cast("str", value["checkpoint"]),
        entries=tuple(_entries(value["entries"])),
        attestation=cast("str", value["attestation"]),
    )


def _exact(value: Mapping[str, Json], members: set[str], position: str, code: str) -> None:
    missing, unknown = sorted(members - value.keys()), sorted(value.keys() - members)
    if missing or unknown:
        problem = f"member {missing[0]} is missing" if missing else f"there is no member {unknown[0][:64]}"
        raise BundleError(code, problem, position)


def _entries(values: Sequence[Json]) -> Iterator[Entry]:
    for number, value in enumerate(values):
        yield _entry(value, f"/entries/{number}")


def _entry(value: Json, position: str) -> Entry:
    code = "entry_format"
    if not isinstance(value, dict):
        raise BundleError(code, "an entry is an object", position)
    shown = {"erased"} if "erased" in value else {"event", "salt"}
    _exact(value, {"index", "commitment", "proof", *shown}, position, code)
    index, proof = value["index"], value["proof"]
    if type(index) is not int or index < 0:
        raise BundleError(code, "not a whole number from 0", f"{position}/index")
    for name in {"commitment", "salt"} & value.keys():
        if not is_hex32(value[name]):
            raise BundleError(code, "not 64 lower-case hexadecimal digits", f"{position}/{name}")
    if not isinstance(proof, list) or len(proof) > MAX_PROOF_HASHES or not all(is_hex32(step) for step in proof):
        raise BundleError(code, f"not a list of at most {MAX_PROOF_HASHES} hashes in hexadecimal", f"{position}/proof")
    event = value.get("event")
    if "event" in value and not isinstance(event, str):
        raise BundleError(code, "not text", f"{position}/event")
    return Entry(
        index=index,
        commitment=bytes.fromhex(cast("str", value["commitment"])),
        proof=tuple(bytes.fromhex(cast("str", step)) for step in proof),
        event=cast("str | None", event),
        salt=bytes.fromhex(cast("str", value["salt"])) if "salt" in value else None,
        erased=_erased(value["erased"], f"{position}/erased") if "erased" in value else None,
    )


def _erased(value: Json, position: str) -> Erased:
    code = "entry_format"
    if not isinstance(value, dict):
        raise BundleError(code, "not an object", position)
    journal = {"seq", "kind"} if "seq" in value else set[str]()
    _exact(value, {"id", "type", *journal}, position, code)
    if not is_event_id(value["id"]):
        raise BundleError(code, "not an audit event's id", f"{position}/id")
    for name in {"type", "kind"} & value.keys():
        if not isinstance(value[name], str) or not value[name]:
            raise BundleError(code, "empty or not text", f"{position}/{name}")
    seq = value.get("seq")
    if "seq" in value and (type(seq) is not int or seq < 1):
        raise BundleError(code, "not a whole number from 1", f"{position}/seq")
    return Erased(
        id=cast("str", value["id"]),
        type=cast("str", value["type"]),
        seq=cast("int | None", seq),
        kind=cast("str", value.get("kind", "")),
    )
