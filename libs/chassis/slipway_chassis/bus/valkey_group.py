"""The stream commands of one consumer in one group, with types: the thin edge to the client library.

redis-py can't tell decoded from raw answers; what it hands out is given its type here.
"""

from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from slipway_chassis.bus.valkey_entries import Fields
from slipway_chassis.logs import get_logger

_RELEASED = "released"
"""Owner in name of entries that a stopped consumer gave back."""

_log = get_logger(__name__)


class GroupMember:
    """Consumer `name` of `group` on `stream`; blocking reads go through `waiting`.

    All methods raise RedisError unless they say otherwise.
    """

    def __init__(self, client: Redis, waiting: Redis, stream: str, group: str, name: str) -> None:
        self._commands = cast(Any, client)
        self._waiting = cast(Any, waiting)
        self._stream = stream
        self._group = group
        self._name = name

    async def ensure_group(self) -> None:
        """Creates stream and group from the stream's beginning; also after somebody has purged them. Never raises."""
        try:
            await self._commands.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except RedisError as error:
            if not str(error).startswith("BUSYGROUP"):
                _log.debug("bus.group_not_created", stream=self._stream, group=self._group, error=str(error))

    async def read(self, count: int, block_ms: int) -> list[tuple[bytes, Fields]]:
        """Up to `count` entries that no consumer of the group got yet; waits up to `block_ms` for the first."""
        streams = {self._stream: ">"}
        answer = await self._waiting.xreadgroup(self._group, self._name, streams, count=count, block=block_ms)
        return [entry for _, entries in answer for entry in entries]

    async def take_over(
        self, position: bytes, count: int, lease_ms: int
    ) -> tuple[bytes, list[tuple[bytes, Fields, int]]]:
        """Entries idle for at least `lease_ms`, now this consumer's, with the number of this delivery.

        Scans from `position`; returns the next one, ``0-0`` at the end.
        """
        answer = await self._commands.xautoclaim(self._stream, self._group, self._name, lease_ms, position, count=count)
        entries: list[tuple[bytes, Fields]] = answer[1]
        async with self._commands.pipeline(transaction=False) as pipeline:
            for entry_id, _ in entries:
                pipeline.xpending_range(self._stream, self._group, entry_id, entry_id, 1)
            pending: list[list[dict[str, Any]]] = await pipeline.execute()
        counts: dict[bytes, int] = {row["message_id"]: row["times_delivered"] for rows in pending for row in rows}
        # An entry without a count was acknowledged in between by the consumer that was thought dead.
        return answer[0], [(entry_id, fields, counts[entry_id]) for entry_id, fields in entries if entry_id in counts]

    async def set_idle(self, entries: list[bytes], idle_ms: int) -> None:
        """Makes `entries` this consumer's, idle for `idle_ms`; does not count as a delivery."""
        await self._commands.xclaim(self._stream, self._group, self._name, 0, entries, idle=idle_ms, justid=True)

    async def acknowledge(self, entries: Sequence[bytes]) -> None:
        """The group is done with `entries`."""
        await self._commands.xack(self._stream, self._group, *entries)

    async def move(self, entry: bytes, fields: Fields, stream: str) -> None:
        """Appends `fields` to `stream` and acknowledges `entry`, both or neither."""
        async with self._commands.pipeline(transaction=True) as pipeline:
            pipeline.xadd(stream, fields)
            pipeline.xack(self._stream, self._group, entry)
            await pipeline.execute()

    async def trim(self) -> None:
        """Removes what every group has acknowledged: all before the oldest pending, or not yet read, entry."""
        floors: list[tuple[int, int]] = []
        for group in await self._commands.xinfo_groups(self._stream):
            summary = await self._commands.xpending(self._stream, group["name"]) if group["pending"] else {}
            if oldest := summary.get("min"):
                floors.append(_parse_id(oldest))
            else:
                milliseconds, sequence = _parse_id(group["last-delivered-id"])
                floors.append((milliseconds, sequence + 1))
        if floors:
            await self._commands.xtrim(self._stream, minid="{}-{}".format(*min(floors)), approximate=False)

    async def leave(self, lease_ms: int) -> None:
        """Ends the leases of this consumer's entries and removes it from the group. Never raises."""
        try:
            rows = await self._commands.xpending_range(self._stream, self._group, "-", "+", 10_000, self._name)
            entries = [row["message_id"] for row in rows]
            if entries:
                await self._commands.xclaim(
                    self._stream, self._group, _RELEASED, 0, entries, idle=lease_ms, justid=True
                )
            await self._commands.xgroup_delconsumer(self._stream, self._group, self._name)
        except RedisError as error:
            # Then the leases end by themselves.
            _log.debug("bus.left_without_goodbye", stream=self._stream, group=self._group, error=str(error))


def _parse_id(entry: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)
