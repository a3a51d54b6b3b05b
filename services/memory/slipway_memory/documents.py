"""Documents: put, read and deleted. Putting parses at once; indexing follows, see `indexing.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import TypeAdapter
from slipway_chassis.caller import Caller
from slipway_chassis.errors import Internal
from slipway_chassis.ids import new_id
from slipway_chassis.paging import decode_token, encode_token, page_size
from slipway_chassis.policy import PolicyDecision

from slipway_memory.access import principals
from slipway_memory.collections import Collections
from slipway_memory.errors import DocumentAccessDenied, DocumentEmpty, DocumentNotFound
from slipway_memory.ingest_topic import send_for_indexing
from slipway_memory.knowledge import Collection, Document, DocumentDescription
from slipway_memory.objects import Objects, object_key
from slipway_memory.orphan_objects import OrphanObjects
from slipway_memory.parsing.sandbox import DocumentParser, ParsedChunk
from slipway_memory.store import KnowledgeStore, NewVersion
from slipway_memory.transactions import Transaction
from slipway_memory.uploads import Upload

_LIST = "ListDocuments"
_NONE = TypeAdapter(type(None))


@dataclass(frozen=True, slots=True)
class DocumentPut:
    """A document as it was accepted, and whether its id is new."""

    document: Document
    created: bool


@dataclass(frozen=True, slots=True)
class PutPermit:
    """The right to put one document, looked at before its bytes are taken in."""

    collection: Collection
    decision: PolicyDecision
    description: DocumentDescription


_ANSWERS = TypeAdapter(DocumentPut)


class Documents:
    """Puts, reads and deletes documents for a caller."""

    def __init__(
        self,
        store: KnowledgeStore,
        collections: Collections,
        parser: DocumentParser,
        objects: Objects,
        orphans: OrphanObjects,
    ) -> None:
        self._store = store
        self._collections = collections
        self._parser = parser
        self._objects = objects
        self._orphans = orphans

    async def permit_put(self, caller: Caller, description: DocumentDescription) -> PutPermit:
        """Raises CollectionNotFound, PolicyDenied."""
        collection, decision = await self._collections.find(caller, description.collection, "WriteDocument")
        return PutPermit(collection, decision, description)

    async def put(self, caller: Caller, permit: PutPermit, upload: Upload) -> DocumentPut:
        """Parses the upload and stores it as the document's latest version, to be indexed.

        The same content again changes nothing but title, access list and labels. Until the new version is READY, the
        old one is what is searched. Raises the errors of documents, DocumentAccessDenied; the collection is then as it
        was.
        """
        if not upload.size:
            raise DocumentEmpty("the upload has no bytes", field="data")
        description = permit.description
        existing = await self._store.document(
            permit.collection.collection_id,
            description.document,
            readers=principals(caller),
            subject=caller.subject,
        )
        if existing is not None and _same_content(existing, description, upload):
            return await self._write(caller, permit, upload, None, ())
        head, chunks = await self._parser.parse(
            upload.file, filename=description.filename, content_type=description.content_type
        )
        version_id = new_id("dov")
        version = NewVersion(
            version_id=version_id,
            object_key=object_key(caller.tenant, "documents", version_id),
            owner=caller.subject,
            description=description,
            title=description.title or head.title or PurePosixPath(description.filename).stem or description.document,
            head=head,
            size_bytes=upload.size,
            digest=upload.digest,
        )
        await self._orphans.expect(version.object_key)
        await self._objects.put(version.object_key, upload.file)
        return await self._write(caller, permit, upload, version, chunks)

    async def _write(
        self,
        caller: Caller,
        permit: PutPermit,
        upload: Upload,
        version: NewVersion | None,
        chunks: tuple[ParsedChunk, ...] | list[ParsedChunk],
    ) -> DocumentPut:
        description = permit.description
        said = [description.collection, description.document, description.filename, description.content_type]
        said += [description.title, *description.readers, json.dumps(dict(description.metadata), sort_keys=True)]
        fingerprint = json.dumps([*said, upload.digest]).encode()
        async with self._store.database.transaction() as transaction:

            async def produce() -> DocumentPut:
                return await self._store_version(transaction, caller, permit, upload, version, chunks)

            return await transaction.once(caller, "PutDocument", description.request_id, fingerprint, _ANSWERS, produce)

    async def _store_version(
        self,
        transaction: Transaction,
        caller: Caller,
        permit: PutPermit,
        upload: Upload,
        version: NewVersion | None,
        chunks: tuple[ParsedChunk, ...] | list[ParsedChunk],
    ) -> DocumentPut:
        description, collection = permit.description, permit.collection
        existing = await self._store.lock_document(transaction, collection.collection_id, description.document)
        if existing is not None and not _may_see(existing, caller):
            raise DocumentAccessDenied("the id is taken by a document that you may not read", field="document")
        same = existing is not None and _same_content(existing, description, upload)
        if existing is not None and same:
            if not _differs(existing, description):
                return DocumentPut(existing, created=False)
            title = description.title or existing.title
            await self._store.describe_version(transaction, existing.version_id, title=title, description=description)
            # An index may carry copies of access list and labels.
            await send_for_indexing(transaction, existing.version_id, caller.tenant)
        elif version is not None:
            await self._store.add_version(transaction, collection, version, chunks, replaces=existing)
            await transaction.keep_object(version.object_key)
            await send_for_indexing(transaction, version.version_id, caller.tenant)
        else:
            raise Internal("the document was replaced while it was put")
        document = await self._store.lock_document(transaction, collection.collection_id, description.document)
        if document is None:
            raise Internal("a document that was just written is gone")
        await transaction.record(
            "document.put",
            caller=caller,
            resource=_resource(document),
            data={
                "digest": document.digest,
                "content_type": document.content_type,
                "size_bytes": document.size_bytes,
                "chunk_count": document.chunk_count,
                "readers": list(document.readers),
                "content_changed": not same,
            },
            policy=permit.decision,
        )
        return DocumentPut(document, created=existing is None)

    async def get(self, caller: Caller, collection: str, name: str) -> Document:
        """A document that the caller may read. Raises CollectionNotFound, PolicyDenied, DocumentNotFound."""
        found, _ = await self._collections.find(caller, collection, "ReadCollection")
        document = await self._store.document(
            found.collection_id, name, readers=principals(caller), subject=caller.subject
        )
        if document is None:
            raise DocumentNotFound(f"there is no document {name} in {collection}", field="document")
        return document

    async def list(self, caller: Caller, collection: str, *, size: int, token: str) -> tuple[list[Document], str]:
        """A page of the documents that the caller may read, by id, and the next page's token."""
        found, _ = await self._collections.find(caller, collection, "ReadCollection")
        wanted = page_size(size, 50, 200)
        method = f"{_LIST}/{collection}"
        position = decode_token(caller.tenant, method, token, (str,))
        documents = await self._store.documents(
            found.collection_id,
            str(position[0]) if position else "",
            wanted + 1,
            readers=principals(caller),
            subject=caller.subject,
        )
        page = documents[:wanted]
        return page, encode_token(caller.tenant, method, page[-1].name) if len(documents) > wanted else ""

    async def delete(self, caller: Caller, collection: str, name: str, request_id: str) -> None:
        """Deletes a document with all versions, chunks and bytes. Raises as `get`."""
        found, decision = await self._collections.find(caller, collection, "WriteDocument")
        async with self._store.database.transaction() as transaction:

            async def produce() -> None:
                document = await self._store.lock_document(transaction, found.collection_id, name)
                if document is None or not _may_see(document, caller):
                    raise DocumentNotFound(f"there is no document {name} in {collection}", field="document")
                await self._store.delete_document(transaction, document.document_id)
                await transaction.record(
                    "document.deleted",
                    caller=caller,
                    resource=_resource(document),
                    data={"digest": document.digest},
                    policy=decision,
                )

            fingerprint = json.dumps([collection, name]).encode()
            await transaction.once(caller, "DeleteDocument", request_id, fingerprint, _NONE, produce)


def _resource(document: Document) -> str:
    return f"collection/{document.collection}/document/{document.name}"


def _may_see(document: Document, caller: Caller) -> bool:
    readers = document.readers
    return not readers or document.owner == caller.subject or not set(readers).isdisjoint(principals(caller))


def _same_content(existing: Document, description: DocumentDescription, upload: Upload) -> bool:
    """True when parsing the upload would give what is stored: same bytes, and the same hints at their type."""
    return (
        existing.state != "FAILED"
        and existing.digest == upload.digest
        and existing.filename == description.filename
        and existing.declared_type == description.content_type
    )


def _differs(existing: Document, description: DocumentDescription) -> bool:
    return (
        bool(description.title and description.title != existing.title)
        or existing.readers != description.readers
        or existing.metadata != description.metadata
    )
