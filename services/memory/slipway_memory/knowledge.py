"""Collections, documents and passages as the domain knows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from slipway_chassis.errors import InvalidArgument

from slipway_memory.access import check_readers

DocumentState = Literal["INDEXING", "READY", "FAILED"]

_COLLECTION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DOCUMENT = re.compile(r"[A-Za-z0-9._-]{1,200}")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MOST_LABELS = 32


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of documents with one embedding model. Counts are of READY documents and their chunks."""

    collection_id: str
    tenant: str
    name: str
    description: str
    embedding_model: str
    dimensions: int
    regions: tuple[str, ...]
    document_count: int
    chunk_count: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was put last. `name` is the caller's id; an older version may still be the one searched."""

    document_id: str
    version_id: str
    collection: str
    name: str
    owner: str
    filename: str
    declared_type: str
    title: str
    content_type: str
    size_bytes: int
    digest: str
    state: DocumentState
    error: str
    chunk_count: int
    indexed_chunk_count: int
    page_count: int
    readers: tuple[str, ...]
    metadata: dict[str, str]
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that was found. `page` counts from 1, 0: the format has none; offsets are characters of the text."""

    passage_id: str
    document: str
    title: str
    headings: tuple[str, ...]
    page: int
    text: str
    score: float
    start_offset: int
    end_offset: int
    document_digest: str


@dataclass(frozen=True, slots=True)
class DocumentDescription:
    """What a caller says about a document that it puts; checked when made."""

    collection: str
    document: str
    filename: str
    content_type: str
    title: str
    readers: tuple[str, ...]
    metadata: Mapping[str, str]
    request_id: str

    def __post_init__(self) -> None:
        """Raises InvalidArgument naming the wrong field."""
        check_collection_name(self.collection)
        if not _DOCUMENT.fullmatch(self.document):
            raise InvalidArgument("1 to 200 of letters, digits, '.', '_' and '-'", field="document")
        for name, value, limit in (
            ("filename", self.filename, 200),
            ("content_type", self.content_type, 200),
            ("title", self.title, 500),
        ):
            if len(value) > limit or not value.isprintable():
                raise InvalidArgument(f"at most {limit} printable characters", field=name)
        check_readers(self.readers)
        check_labels(self.metadata, "metadata", most=_MOST_LABELS)


def check_collection_name(name: str) -> None:
    """Raises InvalidArgument unless `name` may name a collection."""
    if not _COLLECTION.fullmatch(name):
        raise InvalidArgument(
            "lower-case letters, digits and '-', at most 63, not starting with '-'", field="collection"
        )


def check_regions(regions: Sequence[str]) -> tuple[str, ...]:
    """Regions without duplicates, sorted. Raises InvalidArgument naming the wrong entry."""
    for position, region in enumerate(regions):
        if not _REGION.fullmatch(region):
            raise InvalidArgument("a region is lower-case letters, digits and '-'", field=f"regions[{position}]")
    return tuple(sorted(set(regions)))


def check_labels(labels: Mapping[str, str], field: str, *, most: int) -> None:
    """Raises InvalidArgument unless there are at most `most` labels with printable keys and values of modest length."""
    if len(labels) > most:
        raise InvalidArgument(f"at most {most} entries", field=field)
    for key, value in labels.items():
        if not key or len(key) > 100 or not key.isprintable() or len(value) > 1000 or "\x00" in value:
            raise InvalidArgument(
                "keys have 1 to 100 printable characters, values at most 1000 characters", field=f"{field}[{key[:100]}]"
            )
