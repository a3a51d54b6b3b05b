"""Errors of this service. Each reason is stable and public.

InvalidArgument
├── DocumentEmpty, PdfHasNoText, PdfEncrypted, EncodingUnknown, DocumentUnreadable
├── DocumentTypeUnsupported, DocumentTypeMismatch
└── RegionNotAllowed, UploadIncomplete
NotFound
└── CollectionNotFound, DocumentNotFound, FileNotFound, ObjectNotFound, SessionNotFound
PermissionDenied
└── DocumentAccessDenied
FailedPrecondition
└── EmbeddingModelFixed
ResourceExhausted
└── DocumentTooLarge, FileTooLarge, FileQuotaExceeded, MessageTooLarge, SessionFull
Unavailable
└── ObjectStoreUnavailable, ObjectStoreRefused, SessionStoreUnavailable, VectorStoreUnavailable,
    VectorStoreRefused
"""

from __future__ import annotations

from slipway_chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)


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


class CollectionNotFound(NotFound):
    """No such collection in the caller's tenant."""

    reason = "COLLECTION_NOT_FOUND"


class DocumentNotFound(NotFound):
    """No such document, or the caller may not read it."""

    reason = "DOCUMENT_NOT_FOUND"


class DocumentAccessDenied(PermissionDenied):
    """The id is taken by a document that the caller may not read, so it can't be replaced by them."""

    reason = "DOCUMENT_ACCESS_DENIED"


class EmbeddingModelFixed(FailedPrecondition):
    """A collection's embedding model can't be changed: its vectors are of that model."""

    reason = "EMBEDDING_MODEL_FIXED"


class RegionNotAllowed(InvalidArgument):
    """The collection is not, with all of its data, in the regions that the caller demands."""

    reason = "REGION_NOT_ALLOWED"


class UploadIncomplete(InvalidArgument):
    """The stream is not a description followed by bytes."""

    reason = "UPLOAD_INVALID"


class FileNotFound(NotFound):
    """No such file, or the caller may not read it."""

    reason = "FILE_NOT_FOUND"


class FileTooLarge(ResourceExhausted):
    """More bytes than a file may have."""

    reason = "FILE_TOO_LARGE"


class FileQuotaExceeded(ResourceExhausted):
    """The tenant's files would take more space than its quota."""

    reason = "FILE_QUOTA_EXCEEDED"


class ObjectNotFound(NotFound):
    """The bytes are not in the object store: deleted at this moment, or lost there."""

    reason = "OBJECT_NOT_FOUND"


class ObjectStoreUnavailable(Unavailable):
    """The object store does not answer."""

    reason = "OBJECT_STORE_UNAVAILABLE"


class ObjectStoreRefused(Unavailable):
    """The object store does not accept this service's keys, or has no such bucket: an operator must act."""

    reason = "OBJECT_STORE_REFUSED"


class VectorStoreUnavailable(Unavailable):
    """The index of passages does not answer. Documents that were put meanwhile are indexed when it does."""

    reason = "VECTOR_STORE_UNAVAILABLE"


class VectorStoreRefused(Unavailable):
    """The index of passages does not accept this service's key: an operator must act."""

    reason = "VECTOR_STORE_REFUSED"


class SessionNotFound(NotFound):
    """No such session of the caller, or it has ended."""

    reason = "SESSION_NOT_FOUND"


class SessionFull(ResourceExhausted):
    """The session holds as many messages or bytes as it may."""

    reason = "SESSION_FULL"


class MessageTooLarge(ResourceExhausted):
    """A message of a session is longer than it may be."""

    reason = "MESSAGE_TOO_LARGE"


class SessionStoreUnavailable(Unavailable):
    """The session store does not answer."""

    reason = "SESSION_STORE_UNAVAILABLE"


#: By reason, for what the parsing process says.
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
