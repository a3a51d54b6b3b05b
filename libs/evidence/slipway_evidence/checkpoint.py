"""Checkpoints: a log's head as text (C2SP tlog-checkpoint)."""

import base64
from dataclasses import dataclass

from slipway_evidence.merkle import HASH_SIZE
from slipway_evidence.note import Note, NoteError, SignerKey, VerifierKey, decode_base64, parse_note

MAX_TREE_SIZE = 2**53 - 1  # what an integer of the bundle's JSON can say
_PREVIOUS = "previous-log "


class CheckpointError(ValueError):
    """A note's text is not a checkpoint."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log stood: which log, how many leaves, which root."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A head, and the extension lines beneath it."""

    head: Head
    extensions: tuple[str, ...] = ()

    @property
    def previous(self) -> Head | None:
        """Head of the log that this one continues after a restore from backup; None for a first log."""
        for line in self.extensions:
            if line.startswith(_PREVIOUS):
                return _parse_previous(line)
        return None

    def text(self) -> str:
        """The lines that are signed. Raises CheckpointError where a line would break the form."""
        lines = [*_head_lines(self.head), *self.extensions]
        if any(not line or "\n" in line for line in lines):
            raise CheckpointError("a checkpoint's lines are not empty and hold no newline")
        return "".join(f"{line}\n" for line in lines)

    def sign(self, key: SignerKey) -> str:
        """The checkpoint as a signed note."""
        return key.sign(self.text())


def previous_line(head: Head) -> str:
    """Extension line by which a log names the head of the log that it continues."""
    return _PREVIOUS + " ".join(_head_lines(head))


def _head_lines(head: Head) -> tuple[str, str, str]:
    return head.origin, str(head.size), base64.b64encode(head.root).decode()


def _parse_head(origin: str, size: str, root: str) -> Head:
    if not origin:
        raise CheckpointError("the origin is empty")
    if not size.isascii() or not size.isdecimal() or len(size) > 16 or (size[0] == "0" and size != "0"):
        raise CheckpointError("the tree size is not a decimal number without leading zeros")
    if int(size) > MAX_TREE_SIZE:
        raise CheckpointError(f"the tree size is over {MAX_TREE_SIZE}")
    try:
        digest = decode_base64(root)
    except NoteError as error:
        raise CheckpointError(f"the root hash is {error}") from None
    if len(digest) != HASH_SIZE:
        raise CheckpointError(f"the root hash is not {HASH_SIZE} bytes long")
    return Head(origin, int(size), digest)


def _parse_previous(line: str) -> Head:
    parts = line.removeprefix(_PREVIOUS).split(" ")
    if len(parts) != 3:
        raise CheckpointError("a previous-log line has the form `previous-log origin size root`")
    return _parse_head(*parts)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint's text. Raises CheckpointError. Whether it is signed is the note's affair."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise CheckpointError("a checkpoint is at least three lines, none of them empty")
    checkpoint = Checkpoint(_parse_head(*lines[:3]), tuple(lines[3:-1]))
    named = [line for line in checkpoint.extensions if line.startswith(_PREVIOUS)]
    if len(named) > 1:
        raise CheckpointError("a checkpoint names one previous log at most")
    for line in named:
        _parse_previous(line)
    return checkpoint


def open_checkpoint(note: str | Note, key: VerifierKey) -> Checkpoint:
    """Verify a signed checkpoint and read it. Raises NoteError, SignatureError or CheckpointError."""
    return parse_checkpoint(key.verify(parse_note(note) if isinstance(note, str) else note))
