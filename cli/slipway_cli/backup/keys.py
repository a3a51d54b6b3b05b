"""The second half of a backup: keys and secrets, in one file of mode 0600, with a passphrase encrypted.

A passphrase becomes a key by scrypt (N = 2^17, r = 8, p = 1: 128 MiB and about half a second), which seals the file by
AES-256-GCM: `slipway-keys/1\\n`, 16 bytes of salt, 12 of nonce, then ciphertext and tag. Without a passphrase the file
is the JSON itself.
"""

import base64
import json
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from slipway_cli.backup.refusal import BackupRefusedError

_MAGIC = b"slipway-keys/1\n"
_SALT, _NONCE = 16, 12
_LEAST_PASSPHRASE = 12


def write(file: Path, contents: dict[str, bytes], passphrase: str | None) -> None:
    """Writes files by name, which may be a path, into `file`, which must not be there. Raises BackupRefusedError."""
    text = json.dumps({name: base64.b64encode(content).decode() for name, content in contents.items()}).encode()
    if passphrase is not None:
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        text = _MAGIC + salt + nonce + _cipher(passphrase, salt).encrypt(nonce, text, _MAGIC)
    made = False
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        made = True
        with os.fdopen(descriptor, "wb") as output:
            output.write(text)
            output.flush()
            os.fsync(output.fileno())
    except OSError as error:
        if made:
            file.unlink(missing_ok=True)
        raise BackupRefusedError(f"the keys can't be written to {file} ({error.strerror}): name another file") from None


def read(file: Path, passphrase: str | None) -> dict[str, bytes]:
    """The files by name. Raises BackupRefusedError."""
    try:
        raw = file.read_bytes()
        private = not stat.S_IMODE(file.stat().st_mode) & 0o077
    except OSError as error:
        raise BackupRefusedError(
            f"the keys of the backup can't be read from {file} ({error.strerror}): name their file by --keys; without "
            "them the data can't be used"
        ) from None
    if raw.startswith(_MAGIC):
        raw = _open(file, raw, passphrase)
    elif not private:
        raise BackupRefusedError(f"{file} can be read by others: chmod 600 {file}")
    try:
        return {name: base64.b64decode(content, validate=True) for name, content in json.loads(raw).items()}
    except (ValueError, AttributeError, TypeError):
        raise BackupRefusedError(f"{file} is cut off, or holds no keys of a backup: fetch it again") from None


def read_passphrase(file: Path | None) -> str | None:
    """The first line of a file. Raises BackupRefusedError when it is no passphrase to rely on."""
    if file is None:
        return None
    try:
        passphrase = file.read_text().partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        raise BackupRefusedError(f"the passphrase can't be read from {file}: name a readable text file") from None
    if len(passphrase) < _LEAST_PASSPHRASE:
        raise BackupRefusedError(
            f"the passphrase in {file} is shorter than {_LEAST_PASSPHRASE} characters: lengthen it"
        )
    return passphrase


def _open(file: Path, raw: bytes, passphrase: str | None) -> bytes:
    if passphrase is None:
        raise BackupRefusedError(f"{file} is encrypted: name the file of its passphrase by --passphrase-file")
    body = raw[len(_MAGIC) :]
    salt, nonce, sealed = body[:_SALT], body[_SALT : _SALT + _NONCE], body[_SALT + _NONCE :]
    try:
        return _cipher(passphrase, salt).decrypt(nonce, sealed, _MAGIC)
    except (InvalidTag, ValueError):
        raise BackupRefusedError(f"{file} does not open: the passphrase is another, or the file is cut off") from None


def _cipher(passphrase: str, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(passphrase.encode()))
