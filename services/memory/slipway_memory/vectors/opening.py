"""The index that the setting names."""

from __future__ import annotations

from slipway_chassis.logs import get_logger

from slipway_memory.errors import VectorStoreRefused, VectorStoreUnavailable
from slipway_memory.transactions import Database
from slipway_memory.vectors.index import PassageIndex
from slipway_memory.vectors.pgvector import PostgresPassageIndex
from slipway_memory.vectors.url import weaviate_address

_log = get_logger(__name__)


async def open_index(url: str, database: Database, *, lease_seconds: float) -> PassageIndex:
    """The index behind `url`: empty is pgvector in the service's database, `weaviate://…` see `weaviate_address`.

    Raises ValueError with what is wrong with it: form, key, version, an installation that has its names. A Weaviate
    that does not answer now is no reason not to start: readiness names it until it does.
    """
    if not url:
        return PostgresPassageIndex(database, lease_seconds=lease_seconds)
    address = weaviate_address(url)
    # Its client takes seconds to import and some ten MB: only who uses it pays.
    from slipway_memory.vectors.weaviate_index import WeaviatePassageIndex

    index = WeaviatePassageIndex(database, address, lease_seconds=lease_seconds)
    try:
        await index.check()
        await index.homes.check_owner()
    except VectorStoreRefused as error:
        await index.close()
        raise ValueError(str(error)) from error
    except VectorStoreUnavailable as error:
        _log.warning("vectors.unreachable", error=str(error))
    return index
