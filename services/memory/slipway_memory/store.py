"""Collections, documents and their versions in Postgres."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slipway_chassis.ids import new_id

from slipway_memory.embedding import Vector
from slipway_memory.knowledge import Collection, Document, DocumentDescription
from slipway_memory.parsing.sandbox import DocumentHead, ParsedChunk
from slipway_memory.transactions import Database, Transaction, row_values

_COLLECTION = """
SELECT c.collection_id, c.tenant, c.name, c.description, c.embedding_model, c.dimensions, c.regions,
       count(v.version_id) AS document_count, coalesce(sum(v.chunk_count), 0)::bigint AS chunk_count,
       c.create_time, c.update_time
FROM collection c
LEFT JOIN document d ON d.collection_id = c.collection_id
LEFT JOIN document_version v ON v.version_id = d.live_version
"""

_COLLECTION_UNCOUNTED = """
SELECT c.collection_id, c.tenant, c.name, c.description, c.embedding_model, c.dimensions, c.regions,
       0 AS document_count, 0 AS chunk_count, c.create_time, c.update_time
FROM collection c WHERE c.tenant = $1 AND c.name = $2
"""

_DOCUMENT = """
SELECT d.document_id, v.version_id, c.name AS collection, d.name, v.owner, v.filename, v.declared_type, v.title,
       v.content_type, v.size_bytes, v.digest, v.state, v.error, v.chunk_count, v.indexed_chunk_count, v.page_count,
       v.readers, v.metadata, d.create_time, v.update_time
FROM document d
JOIN collection c USING (collection_id)
JOIN document_version v ON v.version_id = d.latest_version
"""

_VISIBLE = "(v.readers = '{}' OR v.readers && $3 OR v.owner = $4)"


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version that is about to be stored."""

    version_id: str
    object_key: str
    owner: str
    description: DocumentDescription
    title: str
    head: DocumentHead
    size_bytes: int
    digest: str


def _collection(row: Any) -> Collection:
    return Collection(**row_values(row, regions=tuple(row["regions"])))


def _document(row: Any) -> Document:
    return Document(**row_values(row, readers=tuple(row["readers"]), metadata=json.loads(row["metadata"])))


class KnowledgeStore:
    """Reads and writes collections and documents; changes go through the transaction handed in."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def collection(self, tenant: str, name: str) -> Collection | None:
        """The tenant's collection of that name."""
        row = await self.database.pool.fetchrow(
            _COLLECTION + "WHERE c.tenant = $1 AND c.name = $2 GROUP BY c.collection_id", tenant, name
        )
        return _collection(row) if row else None

    async def uncounted_collection(self, tenant: str, name: str) -> Collection | None:
        """As `collection`, with 0 for its counts: they cost a look at every document."""
        row = await self.database.pool.fetchrow(_COLLECTION_UNCOUNTED, tenant, name)
        return _collection(row) if row else None

    async def collections(self, tenant: str, after: str, limit: int) -> list[Collection]:
        """The tenant's collections by name, from the one after `after`."""
        rows = await self.database.pool.fetch(
            _COLLECTION + "WHERE c.tenant = $1 AND c.name > $2 GROUP BY c.collection_id ORDER BY c.name LIMIT $3",
            *(tenant, after, limit),
        )
        return [_collection(row) for row in rows]

    async def insert_collection(
        self,
        transaction: Transaction,
        *,
        tenant: str,
        name: str,
        description: str,
        embedding_model: str,
        dimensions: int,
        regions: Sequence[str],
    ) -> bool:
        """Creates a collection; False when it exists by now."""
        created = await transaction.connection.fetchval(
            "INSERT INTO collection (collection_id, tenant, name, description, embedding_model, dimensions, regions)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, name) DO NOTHING RETURNING true",
            *(new_id("col"), tenant, name, description, embedding_model, dimensions, list(regions)),
        )
        return created is not None

    async def update_collection(
        self, transaction: Transaction, collection_id: str, *, description: str, regions: Sequence[str]
    ) -> None:
        """Changes description and regions."""
        await transaction.connection.execute(
            "UPDATE collection SET description = $2, regions = $3, update_time = now() WHERE collection_id = $1",
            *(collection_id, description, list(regions)),
        )

    async def collection_in(self, transaction: Transaction, tenant: str, name: str) -> Collection | None:
        """As `collection`, as the transaction sees it."""
        row = await transaction.connection.fetchrow(
            _COLLECTION + "WHERE c.tenant = $1 AND c.name = $2 GROUP BY c.collection_id", tenant, name
        )
        return _collection(row) if row else None

    async def document(self, collection_id: str, name: str, *, readers: Sequence[str], subject: str) -> Document | None:
        """A document that one of `readers` may read or that `subject` put."""
        row = await self.database.pool.fetchrow(
            _DOCUMENT + f"WHERE d.collection_id = $1 AND d.name = $2 AND {_VISIBLE}",
            *(collection_id, name, list(readers), subject),
        )
        return _document(row) if row else None

    async def documents(
        self, collection_id: str, after: str, limit: int, *, readers: Sequence[str], subject: str
    ) -> list[Document]:
        """The documents of that kind by name, from the one after `after`."""
        rows = await self.database.pool.fetch(
            _DOCUMENT + f"WHERE d.collection_id = $1 AND d.name > $2 AND {_VISIBLE} ORDER BY d.name LIMIT $5",
            *(collection_id, after, list(readers), subject, limit),
        )
        return [_document(row) for row in rows]

    async def lock_document(self, transaction: Transaction, collection_id: str, name: str) -> Document | None:
        """The document whoever may read it, locked against other changes until the transaction ends."""
        row = await transaction.connection.fetchrow(
            _DOCUMENT + "WHERE d.collection_id = $1 AND d.name = $2 FOR UPDATE OF d", collection_id, name
        )
        return _document(row) if row else None

    async def add_version(
        self,
        transaction: Transaction,
        collection: Collection,
        version: NewVersion,
        chunks: Sequence[ParsedChunk],
        *,
        replaces: Document | None,
    ) -> None:
        """Stores a version with its chunks as the document's latest. The live one, if any, stays searchable."""
        connection = transaction.connection
        document_id = replaces.document_id if replaces else new_id("doc")
        if replaces is None:
            await connection.execute(
                "INSERT INTO document (document_id, tenant, collection_id, name, latest_version)"
                " VALUES ($1, $2, $3, $4, $5)",
                *(document_id, collection.tenant, collection.collection_id, version.description.document),
                version.version_id,
            )
        else:
            await connection.execute(
                "UPDATE document SET latest_version = $2 WHERE document_id = $1", document_id, version.version_id
            )
        await connection.execute(
            "INSERT INTO document_version (version_id, document_id, tenant, owner, filename, declared_type,"
            " content_type, size_bytes, digest, title, page_count, readers, metadata, object_key, state, chunk_count)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'INDEXING', $15)",
            *(version.version_id, document_id, collection.tenant, version.owner),
            *(version.description.filename, version.description.content_type, version.head.content_type),
            *(version.size_bytes, version.digest, version.title, version.head.page_count),
            *(list(version.description.readers), json.dumps(dict(version.description.metadata))),
            *(version.object_key, len(chunks)),
        )
        await connection.copy_records_to_table(
            "chunk",
            columns=["version_id", "ordinal", "text", "headings", "context", "page", "start_offset", "end_offset"],
            records=[
                (version.version_id, position, c.text, list(c.headings), c.context, c.page, c.start, c.end)
                for position, c in enumerate(chunks)
            ],
        )
        await self._drop_versions(transaction, document_id)

    async def describe_version(
        self, transaction: Transaction, version_id: str, *, title: str, description: DocumentDescription
    ) -> None:
        """Changes title, access list and labels of a version whose content stays."""
        await transaction.connection.execute(
            "UPDATE document_version SET title = $2, readers = $3, metadata = $4, update_time = now(),"
            " description_revision = description_revision + 1 WHERE version_id = $1",
            *(version_id, title, list(description.readers), json.dumps(dict(description.metadata))),
        )

    async def delete_document(self, transaction: Transaction, document_id: str) -> None:
        """Deletes a document with its versions, chunks and objects."""
        connection = transaction.connection
        rows = await connection.fetch("SELECT object_key FROM document_version WHERE document_id = $1", document_id)
        await connection.execute("DELETE FROM document WHERE document_id = $1", document_id)
        for row in rows:
            await transaction.drop_object(row["object_key"])

    async def _drop_versions(self, transaction: Transaction, document_id: str) -> None:
        """Deletes the versions of a document that are neither live nor the latest."""
        rows = await transaction.connection.fetch(
            "DELETE FROM document_version v USING document d WHERE v.document_id = $1 AND d.document_id = $1"
            " AND v.version_id <> d.latest_version AND v.version_id IS DISTINCT FROM d.live_version"
            " RETURNING v.object_key",
            document_id,
        )
        for row in rows:
            await transaction.drop_object(row["object_key"])


def vector_text(vector: Vector) -> str:
    """A vector as pgvector reads it."""
    return "[" + ",".join(map(repr, vector)) + "]"
