"""Which objects belong to nobody: rows of `orphan_object`."""

from __future__ import annotations

from slipway_memory.objects import Objects
from slipway_memory.transactions import Database

_BATCH = 100


class OrphanObjects:
    """Deletes objects that no row needs, so that neither a crash nor a deletion leaves bytes behind."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._database = database
        self._objects = objects

    async def expect(self, key: str, *, minutes: int = 60) -> None:
        """Announces an upload: unless a row takes the object within the time, it is deleted."""
        await self._database.pool.execute(
            "INSERT INTO orphan_object (object_key, delete_after) VALUES ($1, now() + make_interval(mins => $2))",
            key,
            minutes,
        )

    async def sweep(self) -> int:
        """Deletes what is due; returns the number of objects. Two sweepers take different ones."""
        async with self._database.transaction() as transaction:
            rows = await transaction.connection.fetch(
                "SELECT object_key FROM orphan_object WHERE delete_after <= now()"
                " ORDER BY delete_after LIMIT $1 FOR UPDATE SKIP LOCKED",
                _BATCH,
            )
            for row in rows:
                await self._objects.delete(row["object_key"])
                await transaction.keep_object(row["object_key"])
        return len(rows)
