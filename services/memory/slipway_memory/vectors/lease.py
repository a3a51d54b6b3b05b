"""The lease of a version, as a write into an index checks and renews it."""

from __future__ import annotations

from typing import Any


async def renew_lease(connection: Any, version_id: str, indexer: str, seconds: float) -> bool:
    """Renews the lease in the open transaction; False when another indexer has it or the version is gone."""
    held = await connection.fetchval(
        "UPDATE document_version SET indexer_until = now() + make_interval(secs => $3)"
        " WHERE version_id = $1 AND indexer = $2 AND state IN ('INDEXING', 'READY') RETURNING true",
        *(version_id, indexer, seconds),
    )
    return bool(held)


async def count_indexed(connection: Any, version_id: str, count: int) -> None:
    """Says how far the indexing of a version is."""
    await connection.execute(
        "UPDATE document_version SET indexed_chunk_count = $2 WHERE version_id = $1 AND state = 'INDEXING'",
        *(version_id, count),
    )
