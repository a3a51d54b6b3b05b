"""The log's signing key: `python -m slipway_audit.keys init DIR [--origin slipway.dev/NAME]`.

Writes `log.key` (a secret, mode 0600) and `log.vkey`, the public key that verifiers need. The key's name is the origin
of all logs that it signs, which add their tenant's name. Keys that are there already stay.

`… rotate DIR` makes a new key of the same name. Both files then have a line for each key before, of which only the
public part is kept: bundles are verified by the key that signed them. The service takes the new key up by itself, and
each log goes on as its next generation, whose checkpoints name the last head that the old key signed.
"""

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from slipway_chassis.private_file import is_private
from slipway_evidence.note import NoteError, SignerKey, VerifierKey

SIGNER_FILE, VERIFIER_FILE = "log.key", "log.vkey"


class KeyFileInvalid(Exception):
    """The key file cannot be used; the message says which and why, never its content."""


def init(folder: Path, origin: str) -> SignerKey:
    """Make the key in a folder unless it is there. Raises OSError, KeyFileInvalid, NoteError for a bad origin."""
    folder.mkdir(parents=True, exist_ok=True)
    signer = folder / SIGNER_FILE
    if not signer.exists():
        _write_once(signer, SignerKey.generate(origin).encode() + "\n")
    key, retired = load(signer)
    _write_verifiers(folder, key, retired)
    return key


def rotate(folder: Path) -> SignerKey:
    """Replace the key in a folder by a new one of its name. Raises OSError, KeyFileInvalid."""
    old, retired = load(folder / SIGNER_FILE)
    new = SignerKey.generate(old.name)
    retired = (old.verifier, *retired)
    _write_verifiers(folder, new, retired)
    _replace(folder / SIGNER_FILE, "".join(f"{line}\n" for line in (new.encode(), *retired)), mode=0o600)
    return new


def load(file: Path) -> tuple[SignerKey, tuple[VerifierKey, ...]]:
    """Read the signing key, and the public ones that were retired. Raises KeyFileInvalid."""
    try:
        if not is_private(file.stat()):
            raise KeyFileInvalid(f"{file} can be read by others; run: chmod 600 {file}")
        first, *others = file.read_text(encoding="utf-8").splitlines() or [""]
        return SignerKey.parse(first), tuple(VerifierKey.parse(line) for line in others)
    except OSError as error:
        raise KeyFileInvalid(f"{file} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, NoteError):
        raise KeyFileInvalid(f"{file} holds no signing key") from None


def _write_verifiers(folder: Path, key: SignerKey, retired: Sequence[VerifierKey]) -> None:
    _replace(folder / VERIFIER_FILE, "".join(f"{line}\n" for line in (key.verifier, *retired)))


def _write_once(file: Path, text: str) -> None:
    """Write a private file in one step; one that somebody else made meanwhile stays."""
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    try:
        os.link(new, file)
    except FileExistsError:
        pass
    finally:
        new.unlink()


def _replace(file: Path, text: str, *, mode: int = 0o644) -> None:
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    new.replace(file)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m slipway_audit.keys", description="The audit log's signing key.")
    parser.add_argument("command", choices=["init", "rotate"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--origin", default="", help="name of this installation; default: slipway.dev/ and random digits"
    )
    arguments = parser.parse_args()
    try:
        if arguments.command == "rotate":
            key = rotate(arguments.folder)
        else:
            key = init(arguments.folder, arguments.origin or f"slipway.dev/{secrets.token_hex(6)}")
    except (OSError, KeyFileInvalid, NoteError) as error:
        sys.stderr.write(f"slipway: {error}\n")
        return 2
    sys.stdout.write(f"{key.verifier}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
