"""Regular work: what was interrupted is taken up again, what has ended is deleted."""

from __future__ import annotations

import asyncio

from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger

from slipway_memory import metrics
from slipway_memory.file_store import FileStore
from slipway_memory.indexing_store import IndexingStore
from slipway_memory.orphan_objects import OrphanObjects
from slipway_memory.vectors.index import PassageIndex

_log = get_logger(__name__)


class Sweeper:
    """Any number may run side by side: rows that one has locked are skipped by the others."""

    def __init__(
        self, indexing: IndexingStore, index: PassageIndex, files: FileStore, orphans: OrphanObjects, *, interval: float
    ) -> None:
        """`interval` in seconds."""
        self._steps = {
            "versions_sent_again": indexing.stuck,
            "versions_tended": index.tend,
            "files_expired": files.expire,
            "objects_deleted": orphans.sweep,
        }
        self._interval = interval

    async def run(self) -> None:
        """Sweeps until cancelled. A store that is away is waited for."""
        while True:
            for what, step in self._steps.items():
                try:
                    done = await step()
                except Unavailable as error:
                    _log.warning("sweep.postponed", what=what, reason=error.reason)
                    continue
                if done:
                    metrics.SWEPT.labels(what).inc(done)
                    _log.info("sweep.done", what=what, count=done)
            await asyncio.sleep(self._interval)
