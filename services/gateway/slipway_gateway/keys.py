"""The key that signs internal tokens and run grants, and its files.

`python -m slipway_gateway.keys init DIR` makes DIR/signing.pem (private, mode 0600, the gateway's alone) and
DIR/jwks.json (public, for every service); run again it changes nothing. `… rotate DIR` makes a new key; the public part
of the old one stays in jwks.json until the last run grant that it signed has ended.

Where jwks.json reaches other machines later than signing.pem does, `… prepare DIR` comes first: it makes the next key
(DIR/next.pem, private) and publishes its public part, and `rotate` then takes that one, once everybody has jwks.json.
"""

import argparse
import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

SIGNING_KEY_NAME: Final = "signing.pem"
JWKS_NAME: Final = "jwks.json"
NEXT_KEY_NAME: Final = "next.pem"
# Run grants live for up to 30 days; a day more for clocks and slow files.
RETIRED_KEY_SECONDS: Final = 31 * 86_400

log = structlog.get_logger(__name__)


class KeyFileUnusable(ValueError):
    """The signing key's file cannot be used; the message is a sentence for the operator."""


class PublicJwk(TypedDict, total=False):
    """An Ed25519 public key (RFC 8037). `exp`, in Unix seconds, says until when a retired key counts."""

    kty: str
    crv: str
    x: str
    kid: str
    alg: str
    use: str
    exp: int


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The private key and the `kid` under which others know its public part."""

    key_id: str
    private: Ed25519PrivateKey


def public_jwk(key: Ed25519PublicKey) -> PublicJwk:
    """The key as a JWK; its `kid` is the thumbprint of RFC 7638, so that the same key always has the same name."""
    x = _base64url(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    thumbprint = hashlib.sha256(json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":")).encode())
    kid = _base64url(thumbprint.digest())
    return PublicJwk(kty="OKP", crv="Ed25519", x=x, kid=kid, alg="EdDSA", use="sig")


def load_signing_key(file: Path) -> SigningKey:
    """Reads the private key. Raises KeyFileUnusable."""
    try:
        pem = file.read_bytes()
    except OSError as error:
        raise KeyFileUnusable(
            f"the signing key {file} cannot be read ({error.strerror}): "
            f"`python -m slipway_gateway.keys init {file.parent}` makes one"
        ) from None
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise KeyFileUnusable(f"the signing key {file} is not an unencrypted PEM private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileUnusable(f"the signing key {file} is not an Ed25519 key")
    return SigningKey(public_jwk(key.public_key()).get("kid", ""), key)


def load_public_keys(file: Path) -> Mapping[str, Ed25519PublicKey]:
    """The public keys of jwks.json that still count, by `kid`. Raises KeyFileUnusable."""
    try:
        entries = _read_jwks(file)
        return {
            entry.get("kid", ""): Ed25519PublicKey.from_public_bytes(_from_base64url(entry.get("x", "")))
            for entry in entries
            if entry.get("exp", time.time() + 1) > time.time()
        }
    except (OSError, ValueError) as error:
        raise KeyFileUnusable(f"the key set {file} cannot be used: {error}") from None


def init(directory: Path) -> SigningKey:
    """Makes the key and its JWKS where they are missing; an existing key is kept. Raises KeyFileUnusable."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = directory / SIGNING_KEY_NAME
    if not file.exists():
        _write(file, _pem(Ed25519PrivateKey.generate()), 0o600)
    key = load_signing_key(file)
    jwks = directory / JWKS_NAME
    entries = _read_jwks(jwks) if jwks.exists() else []
    if all(entry.get("kid") != key.key_id for entry in entries):
        _write_jwks(jwks, [public_jwk(key.private.public_key()), *entries])
    return key


def prepare(directory: Path) -> SigningKey:
    """Makes the next signing key, unless there is one, and publishes its public part: nobody signs with it yet."""
    init(directory)
    file = directory / NEXT_KEY_NAME
    if not file.exists():
        _write(file, _pem(Ed25519PrivateKey.generate()), 0o600)
    key = load_signing_key(file)
    entries = _read_jwks(directory / JWKS_NAME)
    if all(entry.get("kid") != key.key_id for entry in entries):
        _write_jwks(directory / JWKS_NAME, [*entries, public_jwk(key.private.public_key())])
    return key


def rotate(directory: Path) -> SigningKey:
    """Signs with a new key from now on, the prepared one if there is one.

    The JWKS is written first, so that no token is signed with a key nobody knows.
    """
    old = init(directory)
    new = prepare(directory)
    now = int(time.time())
    kept = [entry for entry in _read_jwks(directory / JWKS_NAME) if entry.get("exp", now + 1) > now]
    for entry in kept:
        if entry.get("kid") == old.key_id:
            entry["exp"] = now + RETIRED_KEY_SECONDS
    _write_jwks(directory / JWKS_NAME, kept)
    (directory / NEXT_KEY_NAME).replace(directory / SIGNING_KEY_NAME)
    return new


class KeyRing:
    """The gateway's keys, read again when a file changes: a rotation needs no restart.

    The first reading raises KeyFileUnusable; later on files that cannot be used leave the keys as they were.
    """

    def __init__(self, signing_key_file: Path, jwks_file: Path) -> None:
        self._signing_key_file = signing_key_file
        self._jwks_file = jwks_file
        self._stamp: tuple[int, ...] = ()
        self._reload()

    def signing_key(self) -> SigningKey:
        """The key that signs now."""
        self._reload()
        return self._signing

    def public_key(self, key_id: str) -> Ed25519PublicKey | None:
        """A key that signed, now or before; None when there is none of that name."""
        self._reload()
        return self._public.get(key_id)

    def _reload(self) -> None:
        stamp = _stamp(self._signing_key_file) + _stamp(self._jwks_file)
        if stamp == self._stamp:
            return
        try:
            self._signing, self._public = self._load()
        except KeyFileUnusable as error:
            if not self._stamp:
                raise
            log.warning("keys.refused", reason=str(error))
        self._stamp = stamp

    def _load(self) -> tuple[SigningKey, Mapping[str, Ed25519PublicKey]]:
        signing, public = load_signing_key(self._signing_key_file), load_public_keys(self._jwks_file)
        if signing.key_id not in public:
            raise KeyFileUnusable(f"{self._jwks_file} does not hold the public part of {self._signing_key_file}")
        return signing, public


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError:
        # A missing file is reported by whoever reads it.
        return (0,)
    return status.st_mtime_ns, status.st_ino, status.st_size


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_jwks(file: Path) -> list[PublicJwk]:
    document = json.loads(file.read_bytes())
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise KeyFileUnusable(f"{file} is not a JWKS document")
    return document["keys"]


def _write_jwks(file: Path, keys: list[PublicJwk]) -> None:
    _write(file, json.dumps({"keys": keys}, indent=1).encode() + b"\n", 0o644)


def _write(file: Path, content: bytes, mode: int) -> None:
    """Replaces a file in one step, so that a reader sees the old or the new content."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def main() -> int:
    """Command line: prints the `kid` of the key in force, or of the one prepared."""
    parser = argparse.ArgumentParser(prog="slipway_gateway.keys", description="The gateway's signing key")
    parser.add_argument("command", choices=["init", "prepare", "rotate"])
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    try:
        key = {"init": init, "prepare": prepare, "rotate": rotate}[arguments.command](arguments.directory)
    except (KeyFileUnusable, OSError) as error:
        sys.stderr.write(f"slipway-gateway keys: {error}\n")
        return 2
    sys.stdout.write(f"{key.key_id}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
