"""Errors of documents. Each reason is stable and public.

InvalidArgument
├── DocumentEmpty, PdfHasNoText, PdfEncrypted, EncodingUnknown
├── DocumentUnreadable
└── DocumentTypeUnsupported, DocumentTypeMismatch
ResourceExhausted
└── DocumentTooLarge
"""

from __future__ import annotations

from slipway_chassis.errors import InvalidArgument, ResourceExhausted


class DocumentEmpty(InvalidArgument):
    """Nothing to index is in it."""

    reason = "DOCUMENT_EMPTY"


class PdfHasNoText(InvalidArgument):
    """The PDF holds pictures of pages but no text."""

    reason = "PDF_HAS_NO_TEXT"


class PdfEncrypted(InvalidArgument):
    """The PDF asks for a password."""

    reason = "PDF_ENCRYPTED"


class EncodingUnknown(InvalidArgument):
    """The bytes are not text in the encoding that was declared or found."""

    reason = "ENCODING_UNKNOWN"


class DocumentUnreadable(InvalidArgument):
    """The file is damaged, or reading it takes more time or memory than is allowed."""

    reason = "DOCUMENT_UNREADABLE"


class DocumentTypeUnsupported(InvalidArgument):
    """No parser for this type."""

    reason = "DOCUMENT_TYPE_UNSUPPORTED"


class DocumentTypeMismatch(InvalidArgument):
    """The content is not of the type that was declared."""

    reason = "DOCUMENT_TYPE_MISMATCH"


class DocumentTooLarge(ResourceExhausted):
    """More bytes or more text than a document may have."""

    reason = "DOCUMENT_TOO_LARGE"


DOCUMENT_ERRORS = {
    error.reason: error
    for error in (
        DocumentEmpty,
        PdfHasNoText,
        PdfEncrypted,
        EncodingUnknown,
        DocumentUnreadable,
        DocumentTypeUnsupported,
        DocumentTypeMismatch,
        DocumentTooLarge,
    )
}
