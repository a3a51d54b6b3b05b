"""Keys and secrets of a data directory: there, of the right form, this user's alone, of one kind, and not too old."""

import base64
import binascii
import hashlib
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from slipway_evidence.note import NoteError, SignerKey, VerifierKey

from slipway_cli.checks.finding import Finding

_OLD_DAYS = 365
_DAY = 86_400
_ROTATION = "rotate it: `python -m {} rotate {}`"


def check_keys(data_dir: Path) -> list[Finding]:
    """Looks at the files; changes nothing."""
    if not (data_dir / "secrets.json").exists():
        return [Finding("ok", "keys", "none yet: they are made at the first start")]
    files = {
        data_dir / "secrets.json": _wrong_secrets,
        data_dir / "keys" / "gateway" / "signing.pem": _wrong_signing_key,
        data_dir / "keys" / "gateway" / "jwks.json": _wrong_public_keys,
        data_dir / "keys" / "audit" / "log.key": _wrong_log_key,
    }
    found = [finding for file, wrong_form in files.items() for finding in _check_file(file, wrong_form)]
    found += [
        Finding("fail", "keys", f"{file} can be read by others", f"chmod 600 {file}")
        for file in sorted(data_dir.glob("*-secrets.yaml"))
        if not _is_private(file)
    ]
    if not found:
        found = [*_check_pairs(data_dir / "keys"), *_check_age(data_dir / "keys")]
    return found or [Finding("ok", "keys", f"{len(files)} files of keys and secrets in {data_dir}")]


def _check_file(file: Path, wrong_form: Callable[[str], str]) -> list[Finding]:
    try:
        wrong = wrong_form(file.read_text())
        private = _is_private(file)
    except OSError as error:
        return [Finding("fail", "keys", f"{file} cannot be read ({error.strerror})", "restore it from the backup")]
    found: list[Finding] = []
    if wrong:
        found.append(Finding("fail", "keys", f"{file} {wrong}", "restore it from the backup"))
    if not private and file.name != "jwks.json":
        found.append(Finding("fail", "keys", f"{file} can be read by others", f"chmod 600 {file}"))
    return found


def _is_private(file: Path) -> bool:
    return not stat.S_IMODE(file.stat().st_mode) & 0o077


def _check_pairs(keys: Path) -> list[Finding]:
    """Public keys that do not belong to the private ones: all that is signed would be refused."""
    found: list[Finding] = []
    private = load_pem_private_key((keys / "gateway" / "signing.pem").read_bytes(), password=None)
    jwks = keys / "gateway" / "jwks.json"
    if isinstance(private, Ed25519PrivateKey) and _kid(private) not in {
        key.get("kid") for key in json.loads(jwks.read_text())["keys"]
    }:
        remedy = f"`python -m slipway_gateway.keys init {jwks.parent}` adds it"
        found.append(Finding("fail", "keys", f"{jwks} lacks the public part of signing.pem", remedy))
    verifiers = keys / "audit" / "log.vkey"
    remedy = f"`python -m slipway_audit.keys init {verifiers.parent}` writes it"
    try:
        known = [VerifierKey.parse(line) for line in verifiers.read_text().splitlines()]
    except (OSError, UnicodeDecodeError, NoteError):
        return [*found, Finding("warn", "keys", f"{verifiers} holds no verifier key for auditors", remedy)]
    if SignerKey.parse((keys / "audit" / "log.key").read_text().splitlines()[0]).verifier not in known:
        found.append(Finding("fail", "keys", f"{verifiers} lacks the public part of log.key", remedy))
    return found


def _check_age(keys: Path) -> list[Finding]:
    """Signing keys that are due."""
    found: list[Finding] = []
    for file, module in (
        (keys / "gateway" / "signing.pem", "slipway_gateway.keys"),
        (keys / "audit" / "log.key", "slipway_audit.keys"),
    ):
        days = (time.time() - file.stat().st_mtime) / _DAY
        if days > _OLD_DAYS:
            found.append(
                Finding("warn", "keys", f"{file} is {days:.0f} days old", _ROTATION.format(module, file.parent))
            )
    return found


def _kid(key: Ed25519PrivateKey) -> str:
    """The thumbprint of RFC 7638, under which the gateway publishes a key."""
    x = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    text = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _wrong_secrets(text: str) -> str:
    try:
        for service, key in json.loads(text)["data_keys"].items():
            # Several while it is rotated.
            if any(len(base64.b64decode(one, validate=True)) != 32 for one in key.split(",")):
                return f"has a data key of {service} that is not 32 bytes"
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return "is not what a stack writes"
    return ""


def _wrong_signing_key(text: str) -> str:
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError):
        return "is no unencrypted PEM private key"
    return "" if isinstance(key, Ed25519PrivateKey) else "is no Ed25519 key"


def _wrong_public_keys(text: str) -> str:
    try:
        return "" if json.loads(text)["keys"] else "holds no key"
    except (ValueError, KeyError, TypeError):
        return "is no JSON Web Key Set"


def _wrong_log_key(text: str) -> str:
    try:
        # After a rotation further lines hold public keys.
        SignerKey.parse(text.partition("\n")[0])
    except NoteError as error:
        return f"is no signing key of a log ({error})"
    return ""
