"""Why a document is refused, as the parsing process says it. `slipway_memory.errors` has the public errors."""

from __future__ import annotations


class ParseFailure(Exception):
    """`reason` is one of the reasons of `slipway_memory.errors`; the message says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def empty() -> ParseFailure:
    """Nothing to index."""
    return ParseFailure("DOCUMENT_EMPTY", "the document holds no text; send one that does")


def unreadable(kind: str, why: str) -> ParseFailure:
    """A damaged file of a known kind."""
    return ParseFailure("DOCUMENT_UNREADABLE", f"the file can't be read as {kind}: {why}; check that it is whole")
