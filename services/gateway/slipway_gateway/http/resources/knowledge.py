"""Collections, documents, passages."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints
from slipway.memory.v1 import memory_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Labels, Page, Resource, labels_of, state_name, time_of

Region = Annotated[str, StringConstraints(min_length=1, max_length=32)]


class Collection(Resource):
    """A set of documents with one embedding model."""

    collection: str
    description: str
    embedding_model: str
    regions: list[str]
    document_count: int = Field(description="Documents that are READY.")
    chunk_count: int
    create_time: datetime | None
    update_time: datetime | None


class CollectionPage(Page):
    """A page of collections, by name."""

    collections: list[Collection]


class PutCollection(Command):
    """What a collection should be."""

    description: str = Field("", max_length=2000)
    embedding_model: str = Field("", max_length=200, description="Fixed at creation; empty: the default.")
    regions: list[Region] = Field([], max_length=32)


class Document(Resource):
    """A file in a collection."""

    collection: str
    document: str
    title: str
    content_type: str
    size_bytes: int
    digest: str
    state: str = Field(description="`INDEXING`, `READY` (searchable) or `FAILED`.")
    error: str | None
    chunk_count: int
    indexed_chunk_count: int
    page_count: int | None
    readers: list[str]
    metadata: dict[str, str]
    create_time: datetime | None
    update_time: datetime | None


class DocumentPage(Page):
    """A page of documents, by id."""

    documents: list[Document]


class Search(Command):
    """A question to a collection."""

    query: str = Field(min_length=1, max_length=4000)
    limit: int = Field(5, ge=1, le=50)
    alpha: float | None = Field(None, ge=0, le=1, description="Weight of meaning against words; absent: 0.5.")
    metadata: Labels = Field({}, description="Only documents with all of this metadata.")
    regions: list[Region] | None = Field(None, max_length=32, description="Demanded regions; an empty list is refused.")


class Passage(Resource):
    """A chunk that was found, and where it stands."""

    passage_id: str
    document: str
    title: str
    headings: list[str]
    page: int | None
    text: str
    score: float
    start_offset: int
    end_offset: int
    document_digest: str


class SearchResult(Resource):
    """The best passages, best first."""

    passages: list[Passage]


def collection_resource(message: pb.Collection) -> Collection:
    """Converts a collection."""
    return Collection(
        collection=message.collection,
        description=message.description,
        embedding_model=message.embedding_model,
        regions=list(message.regions),
        document_count=message.document_count,
        chunk_count=message.chunk_count,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
    )


def document_resource(message: pb.Document) -> Document:
    """Converts a document."""
    return Document(
        collection=message.collection,
        document=message.document,
        title=message.title,
        content_type=message.content_type,
        size_bytes=message.size_bytes,
        digest=message.digest,
        state=state_name(pb.DocumentState.Name(message.state), "DOCUMENT_STATE_"),
        error=message.error or None,
        chunk_count=message.chunk_count,
        indexed_chunk_count=message.indexed_chunk_count,
        page_count=message.page_count or None,
        readers=list(message.readers),
        metadata=labels_of(message.metadata),
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
    )


def passage(message: pb.Passage) -> Passage:
    """Converts a passage."""
    return Passage(
        passage_id=message.passage_id,
        document=message.document,
        title=message.title,
        headings=list(message.headings),
        page=message.page or None,
        text=message.text,
        score=message.score,
        start_offset=message.start_offset,
        end_offset=message.end_offset,
        document_digest=message.document_digest,
    )
