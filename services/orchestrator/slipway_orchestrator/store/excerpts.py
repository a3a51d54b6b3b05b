"""Single rows of journals, picked by their kind: facts that stand nowhere else."""

import json
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from slipway_chassis.crypto import SubjectKeys

from slipway_orchestrator.runs import RunIdentity

_OF_KIND = "SELECT time, data FROM run_event WHERE run_id = $1 AND kind = $2 ORDER BY seq"


class Excerpts:
    """Reads rows whose values are small (none of their fields is stored apart)."""

    def __init__(self, keys: SubjectKeys) -> None:
        self._keys = keys

    async def of_kind(self, conn: Any, run: RunIdentity, kind: str) -> list[dict[str, JsonValue]]:
        """The data of all events of a kind, in order."""
        rows = await conn.fetch(_OF_KIND, run.run_id, kind)
        return [await self._data(conn, run, row) for row in rows]

    async def last(self, conn: Any, run: RunIdentity, kind: str) -> tuple[datetime, dict[str, JsonValue]] | None:
        """Time and data of the newest event of a kind; None when there is none."""
        row = await conn.fetchrow(f"{_OF_KIND} DESC LIMIT 1", run.run_id, kind)
        return None if row is None else (row["time"], await self._data(conn, run, row))

    async def _data(self, conn: Any, run: RunIdentity, row: Any) -> dict[str, JsonValue]:
        return json.loads(await self._keys.decrypt(conn, run.tenant, run.subject, row["data"]))
