"""The index that the setting names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from slipway_chassis.logs import get_logger

from slipway_memory.errors import VectorStoreRefused, VectorStoreUnavailable
from slipway_memory.transactions import Database
from slipway_memory.vectors.index import PassageIndex
from slipway_memory.vectors.pgvector import PostgresPassageIndex
from slipway_memory.vectors.url import weaviate_address

_log = get_logger(__name__)


async def open_index(url: str, database: Database, *, lease_seconds: float) -> PassageIndex:
    """The index behind `url`: empty is pgvector in the service's database, `weaviate://…` see `weaviate_address`.

    Raises ValueError with what is wrong with it: form, key, version. A Weaviate that does not answer now is no reason
    not to start: readiness names it until it does. Neither it nor the database is written to or read, so this comes
    before migrations, and `check_owner` after them.
    """
    if not url:
        return PostgresPassageIndex(database, lease_seconds=lease_seconds)
    address = weaviate_address(url)
    # Its client takes seconds to import and some ten MB: only who uses it pays.
    from slipway_memory.vectors.weaviate_index import WeaviatePassageIndex

    index = WeaviatePassageIndex(database, address, lease_seconds=lease_seconds)
    await _unless_refused(index, index.check)
    return index


async def check_owner(index: PassageIndex) -> None:
    """Raises ValueError when the index is another installation's. One that does not answer is asked again in use."""
    await _unless_refused(index, index.check_owner)


async def _unless_refused(index: PassageIndex, ask: Callable[[], Awaitable[None]]) -> None:
    try:
        await ask()
    except VectorStoreRefused as error:
        await index.close()
        raise ValueError(str(error)) from error
    except VectorStoreUnavailable as error:
        _log.warning(
            "server.away", setting="SLIPWAY_MEMORY_VECTORS_URL", reason=f"{error}: start it, or correct the URL"
        )
