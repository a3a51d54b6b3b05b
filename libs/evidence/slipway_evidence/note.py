"""Signed notes (C2SP signed-note) with Ed25519 keys, and the text forms of those keys.

A verifier key is one line, `name+hash+base64(0x01 ‖ public key)`; a signer key is `PRIVATE+KEY+name+hash+base64(0x01 ‖
seed)`, both as in golang.org/x/mod/sumdb/note.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 16
_DASH = "— "
_SIGNER_PREFIX = "PRIVATE+KEY+"


class NoteError(ValueError):
    """A note or a key is not well-formed."""


class SignatureError(ValueError):
    """A well-formed note is not signed by the key that it should be signed by."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A note taken apart. Nothing is known about the text until `VerifierKey.verify` has returned."""

    text: str
    signatures: tuple[Signature, ...]


def decode_base64(text: str) -> bytes:
    """Decode standard base64, refusing every spelling but the one that encoding gives. Raises NoteError."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise NoteError("not base64") from None
    if base64.b64encode(raw).decode("ascii") != text:
        raise NoteError("not the one base64 spelling of its bytes")
    return raw


def check_name(name: str) -> str:
    """The key name, or NoteError where it is empty or holds a space, a control character or a plus."""
    if not name or any(char.isspace() or char == "+" or char < " " for char in name):
        raise NoteError("a key name is not empty and holds no space, control character or plus")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise NoteError("a key name is UTF-8") from None
    return name


def key_id(name: str, public: bytes) -> bytes:
    """First four bytes of SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)."""
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public).digest()[:4]


def _parse_key(line: str) -> tuple[str, bytes, bytes]:
    parts = line.split("+", 2)
    if len(parts) != 3:
        raise NoteError("a key has the form name+hash+base64")
    name, identifier, encoded = parts
    check_name(name)
    raw = decode_base64(encoded)
    if len(raw) != 33 or raw[:1] != ED25519:
        raise NoteError("not an Ed25519 key")
    if len(identifier) != 8 or identifier.strip("0123456789abcdef"):
        raise NoteError("a key's hash is eight hexadecimal digits")
    return name, bytes.fromhex(identifier), raw[1:]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, line: str) -> "VerifierKey":
        """Read a `vkey` line, with or without the line's end. Raises NoteError."""
        name, identifier, public = _parse_key(line.removesuffix("\n"))
        if identifier != key_id(name, public):
            raise NoteError("the key's hash is not that of its name and key")
        try:
            Ed25519PublicKey.from_public_bytes(public)
        except ValueError:
            raise NoteError("not an Ed25519 key") from None
        return cls(name, public)

    def __str__(self) -> str:
        encoded = base64.b64encode(ED25519 + self.public).decode()
        return f"{self.name}+{key_id(self.name, self.public).hex()}+{encoded}"

    def verify(self, note: Note) -> str:
        """Return the note's text. Raises SignatureError when this key did not sign it; other keys' are ignored."""
        own = key_id(self.name, self.public)
        found = [one for one in note.signatures if one.name == self.name and one.key_id == own]
        if not found:
            raise SignatureError(f"not signed by {self.name}+{own.hex()}")
        public = Ed25519PublicKey.from_public_bytes(self.public)
        for one in found:
            try:
                public.verify(one.signature, note.text.encode())
            except InvalidSignature:
                raise SignatureError(f"the signature of {self.name}+{own.hex()} does not fit the text") from None
        return note.text


class SignerKey:
    """A private key with its name."""

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        """Use a key under a name. Raises NoteError where the name breaks the rules."""
        self.name = check_name(name)
        self._private = private
        self.verifier = VerifierKey(name, private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SignerKey({self.verifier})"

    @classmethod
    def generate(cls, name: str) -> "SignerKey":
        """Make a new key from the system's randomness."""
        return cls(name, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, line: str) -> "SignerKey":
        """Read what `encode` wrote. Raises NoteError, without repeating the key."""
        if not line.startswith(_SIGNER_PREFIX):
            raise NoteError(f"a signer key starts with {_SIGNER_PREFIX}")
        name, identifier, seed = _parse_key(line.removeprefix(_SIGNER_PREFIX).removesuffix("\n"))
        key = cls(name, Ed25519PrivateKey.from_private_bytes(seed))
        if identifier != key_id(name, key.verifier.public):
            raise NoteError("the key's hash is not that of its name and key")
        return key

    def encode(self) -> str:
        """The key as one line of text: a secret."""
        identifier = key_id(self.name, self.verifier.public).hex()
        encoded = base64.b64encode(ED25519 + self._private.private_bytes_raw()).decode()
        return f"{_SIGNER_PREFIX}{self.name}+{identifier}+{encoded}"

    def sign(self, text: str) -> str:
        """The signed note of a text, which ends in a newline. Raises NoteError where the text breaks the rules."""
        _check_text(text)
        signature = self._private.sign(text.encode())
        blob = key_id(self.name, self.verifier.public) + signature
        return f"{text}\n{_DASH}{self.name} {base64.b64encode(blob).decode()}\n"


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise NoteError("a note's text ends in a newline")
    if any(char < " " and char != "\n" for char in text):
        raise NoteError("a note holds no control character but newline")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise NoteError("a note is UTF-8") from None
    if size > MAX_NOTE_BYTES:
        raise NoteError(f"a note is at most {MAX_NOTE_BYTES} bytes long")


def parse_note(note: str) -> Note:
    """Take a signed note apart: the text up to the last empty line, the signature lines after it. Raises NoteError."""
    _check_text(note)
    head, separator, tail = note.rpartition("\n\n")
    if not separator:
        raise NoteError("no empty line parts the text from the signatures")
    lines = tail.removesuffix("\n").split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"a note has at most {MAX_SIGNATURES} signatures")
    return Note(head + "\n", tuple(_parse_signatures(lines)))


def _parse_signatures(lines: Sequence[str]) -> list[Signature]:
    signatures: list[Signature] = []
    for line in lines:
        name, separator, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not separator:
            raise NoteError("a signature line has the form `— name base64`")
        check_name(name)
        raw = decode_base64(encoded)
        if len(raw) < 5:
            raise NoteError("a signature is longer than its key's id")
        signatures.append(Signature(name, raw[:4], raw[4:]))
    return signatures
