"""Which collections of Weaviate hold passages: made when needed, made anew when lost or of an older layout."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any

import weaviate
from slipway_chassis.logs import get_logger

from slipway_memory.errors import VectorStoreRefused
from slipway_memory.transactions import Database
from slipway_memory.vectors.weaviate_connection import WeaviateConnection
from slipway_memory.vectors.weaviate_schema import LAYOUT, create_collection, owner

_TRUSTED_SECONDS = 30.0
_SCHEMA_SECONDS = 20.0
# Whoever makes, replaces or drops collections holds this lock of the database.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('slipway.vector_home'))"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Homes:
    """Collections to fill: the one that is searched, and the one that will take its place."""

    serving: str
    building: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the one that is searched first."""
        return (self.serving, self.building) if self.building else (self.serving,)


class WeaviateHomes:
    """One collection for each number of dimensions, searched under an alias. All methods raise as PassageIndex."""

    def __init__(
        self, database: Database, connection: WeaviateConnection, prefix: str, *, layout: int = LAYOUT
    ) -> None:
        """`prefix`: what the names begin with. `layout`: see `weaviate_schema`."""
        self._database = database
        self._connection = connection
        self._prefix = prefix
        self._layout = layout
        self._known: dict[int, tuple[float, Homes]] = {}

    def alias(self, dimensions: int) -> str:
        """The name under which vectors of that size are searched."""
        return f"{self._prefix}{dimensions}"

    def forget(self) -> None:
        """Looks again next time: something was not as it was known."""
        self._known.clear()

    async def ensure(self, dimensions: int) -> Homes:
        """The collections for vectors of that size; what is missing is made."""
        until, homes = self._known.get(dimensions, (0.0, None))
        if homes is not None and time.monotonic() < until:
            return homes
        async with (
            self._database.transaction() as transaction,
            self._connection.use("schema", seconds=_SCHEMA_SECONDS) as client,
        ):
            await transaction.connection.execute(_LOCK)
            homes = await self._looked_after(transaction.connection, client, dimensions)
        self._known[dimensions] = (time.monotonic() + _TRUSTED_SECONDS, homes)
        return homes

    async def check_owner(self) -> None:
        """Raises VectorStoreRefused when the names are taken by another installation."""
        installation = await self._installation(self._database.pool)
        async with self._connection.use("schema", seconds=_SCHEMA_SECONDS) as client:
            for alias, target in (await client.alias.list_all()).items():
                ours = alias.startswith(self._prefix) and alias.removeprefix(self._prefix).isdigit()
                if ours and await owner(client, target.collection) not in (None, installation):
                    raise _taken(alias)

    async def promote(self, dimensions: int) -> bool:
        """Puts the collection that was built in the place of the one that is searched, if it holds everything."""
        homes = await self.ensure(dimensions)
        if homes.building is None:
            return False
        async with (
            self._database.transaction() as transaction,
            self._connection.use("schema", seconds=_SCHEMA_SECONDS) as client,
        ):
            connection = transaction.connection
            await connection.execute(_LOCK)
            if not await connection.fetchval(_HOLDS_ALL, homes.building, dimensions):
                return False
            await client.alias.update(alias_name=self.alias(dimensions), new_target_collection=homes.building)
            await client.collections.delete(homes.serving)
            await connection.execute("DELETE FROM vector_home WHERE home = $1", homes.serving)
            await connection.execute("UPDATE vector_home SET state = 'SERVING' WHERE home = $1", homes.building)
        self.forget()
        _log.info("vectors.migrated", alias=self.alias(dimensions), dropped=homes.serving, serving=homes.building)
        return True

    async def _looked_after(self, connection: Any, client: weaviate.WeaviateAsyncClient, dimensions: int) -> Homes:
        alias, installation = self.alias(dimensions), await self._installation(connection)
        rows = await connection.fetch("SELECT home, layout, state FROM vector_home WHERE alias = $1", alias)
        found = {row["state"]: row for row in rows}
        for state, row in list(found.items()):
            if await owner(client, row["home"]) != installation:
                _log.warning("vectors.lost", home=row["home"], what="its documents are indexed again")
                await client.collections.delete(row["home"])
                await connection.execute("DELETE FROM vector_home WHERE home = $1", row["home"])
                del found[state]
        if "SERVING" not in found and "BUILDING" in found:
            found["SERVING"] = found.pop("BUILDING")
            await connection.execute(
                "UPDATE vector_home SET state = 'SERVING' WHERE home = $1", found["SERVING"]["home"]
            )
        serving = found["SERVING"]["home"] if "SERVING" in found else None
        building = found["BUILDING"]["home"] if "BUILDING" in found else None
        if serving is None:
            await self._refuse_foreign(client, alias, installation)
            serving = await self._made(connection, client, alias, installation, dimensions, "SERVING")
        elif building is None and found["SERVING"]["layout"] < self._layout:
            building = await self._made(connection, client, alias, installation, dimensions, "BUILDING")
        await self._point(client, alias, serving, installation)
        return Homes(serving, building)

    async def _made(
        self,
        connection: Any,
        client: weaviate.WeaviateAsyncClient,
        alias: str,
        installation: str,
        dimensions: int,
        state: str,
    ) -> str:
        home = f"{alias}_v{self._layout}_{secrets.token_hex(4)}"
        await create_collection(client, home, installation, self._layout)
        await connection.execute(
            "INSERT INTO vector_home (home, alias, dimensions, layout, state) VALUES ($1, $2, $3, $4, $5)",
            *(home, alias, dimensions, self._layout, state),
        )
        _log.info("vectors.collection_made", home=home, state=state)
        return home

    async def _point(self, client: weaviate.WeaviateAsyncClient, alias: str, home: str, installation: str) -> None:
        target = await client.alias.get(alias_name=alias)
        if target is None:
            await client.alias.create(alias_name=alias, target_collection=home)
        elif target.collection != home:
            await self._refuse_foreign(client, alias, installation)
            await client.alias.update(alias_name=alias, new_target_collection=home)

    async def _refuse_foreign(self, client: weaviate.WeaviateAsyncClient, alias: str, installation: str) -> None:
        target = await client.alias.get(alias_name=alias)
        if target is not None and await owner(client, target.collection) not in (None, installation):
            raise _taken(alias)

    async def _installation(self, connection: Any) -> str:
        return str(await connection.fetchval("SELECT installation FROM vector_installation"))


_HOLDS_ALL = """
SELECT NOT EXISTS (
    SELECT FROM document d
    JOIN document_version v ON v.version_id = d.live_version
    JOIN collection c USING (collection_id)
    LEFT JOIN vector_version w ON w.home = $1 AND w.version_id = v.version_id
    WHERE c.dimensions = $2 AND coalesce(w.stored, -1) < v.chunk_count
)
"""


def _taken(alias: str) -> VectorStoreRefused:
    return VectorStoreRefused(
        f"the alias {alias} of that Weaviate belongs to another installation (or to a database that is gone): give this"
        " one another name with collection=NAME, or delete the alias",
        retry_after=60,
    )
