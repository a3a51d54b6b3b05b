"""The issuer's RSA keys: one signs, all are published."""

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

KEY_NAME: Final = "issuer.pem"


@dataclass(frozen=True)
class IssuerKey:
    """The private key, and its public part as a JWK."""

    private: RSAPrivateKey
    jwk: dict[str, str]

    @property
    def key_id(self) -> str:
        """The `kid`: the thumbprint of RFC 7638."""
        return self.jwk["kid"]


class SigningKeys:
    """The keys of a folder, read again when it changes: `issuer.pem` signs, every other `*.pem` is only published."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stamp = 0
        self._signing = open_key(directory)
        self._published: tuple[IssuerKey, ...] = ()

    def signing_key(self) -> IssuerKey:
        """The key that signs now."""
        self._read_again()
        return self._signing

    def published(self) -> tuple[IssuerKey, ...]:
        """All keys whose signatures hold."""
        self._read_again()
        return self._published

    def rotate(self) -> None:
        """A new key signs; the one before stays published until its file is removed."""
        old = open_key(self._directory)
        (self._directory / KEY_NAME).rename(self._directory / f"{old.key_id}.pem")
        open_key(self._directory)

    def _read_again(self) -> None:
        stamp = self._directory.stat().st_mtime_ns
        if stamp == self._stamp and (self._directory / KEY_NAME).exists():
            return
        self._signing = open_key(self._directory)
        self._published = tuple(_read(file) for file in sorted(self._directory.glob("*.pem")))
        self._stamp = stamp


def open_key(directory: Path) -> IssuerKey:
    """Reads the key that signs, or makes it. Raises OSError, ValueError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = directory / KEY_NAME
    if not file.exists():
        key = generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        new = file.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(pem)
        new.replace(file)
    return _read(file)


def _read(file: Path) -> IssuerKey:
    private = load_pem_private_key(file.read_bytes(), password=None)
    if not isinstance(private, RSAPrivateKey):
        raise ValueError(f"{file} is not an RSA key")
    numbers = private.public_key().public_numbers()
    required = {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}
    thumbprint = hashlib.sha256(json.dumps(required, separators=(",", ":"), sort_keys=True).encode()).digest()
    return IssuerKey(private, {**required, "kid": _base64url(thumbprint), "alg": "RS256", "use": "sig"})


def _number(value: int) -> str:
    return _base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
