"""The one crossing between messages of slipway.memory.v1 and the domain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from slipway.effects.v1 import effects_pb2
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import InvalidArgument

from slipway_memory.access import check_readers
from slipway_memory.embedding import RunEffect
from slipway_memory.file_store import StoredFile
from slipway_memory.files import FileDescription
from slipway_memory.knowledge import Collection, Document, DocumentDescription, Passage
from slipway_memory.search import SearchQuery, SearchResult
from slipway_memory.sessions import NewMessage, Session, SessionMessage

_STATES = {
    "INDEXING": pb.DOCUMENT_STATE_INDEXING,
    "READY": pb.DOCUMENT_STATE_READY,
    "FAILED": pb.DOCUMENT_STATE_FAILED,
}


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def collection_message(collection: Collection) -> pb.Collection:
    """A collection for the wire."""
    return pb.Collection(
        collection=collection.name,
        description=collection.description,
        embedding_model=collection.embedding_model,
        regions=collection.regions,
        document_count=collection.document_count,
        chunk_count=collection.chunk_count,
        create_time=_timestamp(collection.create_time),
        update_time=_timestamp(collection.update_time),
    )


def document_message(document: Document) -> pb.Document:
    """A document for the wire."""
    return pb.Document(
        collection=document.collection,
        document=document.name,
        title=document.title,
        content_type=document.content_type,
        size_bytes=document.size_bytes,
        digest=document.digest,
        state=_STATES[document.state],
        error=document.error,
        chunk_count=document.chunk_count,
        indexed_chunk_count=document.indexed_chunk_count,
        readers=document.readers,
        metadata=document.metadata,
        create_time=_timestamp(document.create_time),
        update_time=_timestamp(document.update_time),
        page_count=document.page_count,
    )


def document_description(message: pb.DocumentDescription) -> DocumentDescription:
    """A description from the wire. Raises InvalidArgument."""
    return DocumentDescription(
        collection=message.collection,
        document=message.document,
        filename=message.filename,
        content_type=message.content_type,
        title=message.title,
        readers=check_readers(message.readers),
        metadata=dict(message.metadata),
        request_id=message.request_id,
    )


def search_query(request: pb.SearchCollectionRequest) -> SearchQuery:
    """A query from the wire. Raises InvalidArgument."""
    return SearchQuery(
        collection=request.collection,
        text=request.query,
        limit=request.limit,
        alpha=request.alpha if request.HasField("alpha") else None,
        metadata=dict(request.metadata),
        regions=tuple(request.regions) if request.regions_demanded else None,
    )


def run_effect(request: pb.SearchCollectionRequest) -> RunEffect | None:
    """The effect that a run's call carries; None for other calls. Raises InvalidArgument."""
    effect = request.effect
    if not request.HasField("effect") or not effect.key:
        return None
    if effect.attempt < 1 or effect.epoch < 0:
        raise InvalidArgument("attempt counts from 1 and epoch from 0", field="effect")
    return RunEffect(effect.key, effect.epoch, effect.attempt, effect.root_run_id)


def _passage_message(passage: Passage) -> pb.Passage:
    return pb.Passage(
        passage_id=passage.passage_id,
        document=passage.document,
        title=passage.title,
        headings=passage.headings,
        page=passage.page,
        text=passage.text,
        score=passage.score,
        start_offset=passage.start_offset,
        end_offset=passage.end_offset,
        document_digest=passage.document_digest,
    )


def search_response(result: SearchResult) -> pb.SearchCollectionResponse:
    """The answer to a search for the wire."""
    response = pb.SearchCollectionResponse(passages=map(_passage_message, result.passages))
    if result.event_id:
        response.record.CopyFrom(effects_pb2.RecordRef(event_id=result.event_id, commitment=result.commitment))
    return response


def file_message(file: StoredFile) -> pb.File:
    """A file for the wire."""
    return pb.File(
        file_id=file.file_id,
        filename=file.filename,
        content_type=file.content_type,
        size_bytes=file.size_bytes,
        digest=file.digest,
        owner=file.owner,
        readers=file.readers,
        create_time=_timestamp(file.create_time),
        expire_time=_timestamp(file.expire_time),
    )


def file_description(message: pb.FileDescription) -> FileDescription:
    """A description from the wire. Raises InvalidArgument."""
    return FileDescription(
        filename=message.filename,
        content_type=message.content_type,
        readers=check_readers(message.readers),
        ttl=_seconds(message.ttl) if message.HasField("ttl") else None,
        request_id=message.request_id,
    )


def session_message(session: Session) -> pb.Session:
    """A session for the wire."""
    return pb.Session(
        session_id=session.session_id,
        owner=session.owner,
        labels=session.labels,
        message_count=session.message_count,
        create_time=_timestamp(session.create_time),
        expire_time=_timestamp(session.expire_time),
    )


def session_ttl(request: pb.CreateSessionRequest) -> float | None:
    """Seconds to live since the last use; None when unset."""
    return _seconds(request.ttl) if request.HasField("ttl") else None


def new_messages(request: pb.AppendSessionMessagesRequest) -> Sequence[NewMessage]:
    """Messages to append, from the wire."""
    return [NewMessage(message.role, message.content) for message in request.messages]


def turn_message(message: SessionMessage) -> pb.SessionMessage:
    """A session's message for the wire."""
    return pb.SessionMessage(seq=message.seq, role=message.role, content=message.content, time=_timestamp(message.time))
