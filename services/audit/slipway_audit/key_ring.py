"""The key that signs now, and those that did before: read again when their file changes, so that a rotation needs no
restart."""

from pathlib import Path

from slipway_chassis.logs import get_logger
from slipway_evidence.note import SignerKey, VerifierKey, key_id, parse_note

from slipway_audit.keys import KeyFileInvalid, load

_log = get_logger(__name__)


class KeyRing:
    """The signing key of a file, and the verifier keys of those that it replaced, as `keys.rotate` writes them."""

    def __init__(self, file: Path) -> None:
        """Reads the keys. Raises KeyFileInvalid."""
        self._file = file
        self._stamp = _stamp(file)
        self._signing, self._verifiers = self._read()
        self._signed = [self._signing]

    def current(self) -> SignerKey:
        """The key that signs now. A file that can't be used leaves it as it was, and is logged."""
        stamp = _stamp(self._file)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._signing, self._verifiers = self._read()
            except KeyFileInvalid as error:
                _log.error("audit.keys_refused", reason=str(error))
            else:
                self._signed = [self._signing, *self._signed][:3]
                _log.info("audit.keys_loaded", key=str(self._signing.verifier))
        return self._signing

    def signer(self, note: str) -> SignerKey:
        """The key of this process that signed a note: the current one, or the one that it has just replaced."""
        signatures = parse_note(note).signatures
        return next((key for key in self._signed if _is_of(signatures[0].key_id, key.verifier)), self._signing)

    def verifier(self, note: str) -> VerifierKey:
        """The key, current or retired, that a note names; the current one if it names none of them.

        Raises NoteError.
        """
        parsed = parse_note(note)
        for key in self._verifiers:
            if any(one.name == key.name and _is_of(one.key_id, key) for one in parsed.signatures):
                return key
        return self._signing.verifier

    def _read(self) -> tuple[SignerKey, tuple[VerifierKey, ...]]:
        signing, retired = load(self._file)
        return signing, (signing.verifier, *retired)


def _is_of(identifier: bytes, key: VerifierKey) -> bool:
    return identifier == key_id(key.name, key.public)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        info = file.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino
