"""Following a run: the journal from a sequence number on, without gap or duplicate, then whatever comes."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pydantic import JsonValue
from slipway_chassis.bus import Bus
from slipway_chassis.caller import Caller
from slipway_chassis.errors import Unavailable

from slipway_orchestrator.runs import JournalRow
from slipway_orchestrator.starting import RunDesk, check_seen
from slipway_orchestrator.worker.announcing import run_channel

_LOOK_AGAIN = 5.0
"""Seconds after which the journal is read without having been told: what the broadcast lost."""
_LOOK_AGAIN_DEAF = 1.0
"""The same while there is no broadcast."""
_PAGE = 200
_TERMINAL = ("run.succeeded", "run.failed", "run.cancelled")


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a model's answer."""

    step_id: str
    attempt: int
    offset: int
    text: str


@dataclass(slots=True)
class _Heard:
    """What the broadcast said since the journal was read last."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    deltas: list[Delta] = field(default_factory=list[Delta])
    deaf: bool = False


class Watcher:
    """Follows runs for as many watchers as come: each costs a subscription and a read for each commit."""

    def __init__(self, desk: RunDesk, bus: Bus) -> None:
        self._desk = desk
        self._bus = bus

    async def watch(
        self, caller: Caller, run_id: str, after_seq: int, *, deltas: bool
    ) -> AsyncIterator[JournalRow | Delta]:
        """Rows after `after_seq` and, if wanted, deltas; ends after the terminal event.

        Raises RunNotFound, or EventNotYet.
        """
        run = await self._desk.get(caller, run_id)
        check_seen(after_seq, run.last_seq)
        if run.ended and after_seq >= run.last_seq:
            return
        async with self._listening(run_id) as heard:
            while True:
                heard.changed.clear()
                pieces, heard.deltas = heard.deltas, []
                # Pieces come before the result that holds them whole.
                for piece in pieces if deltas else ():
                    yield piece
                while rows := await self._desk.follow(run.identity, after_seq, _PAGE):
                    for row in rows:
                        after_seq = row.seq
                        yield row
                        if row.kind in _TERMINAL:
                            return
                try:
                    async with asyncio.timeout(_LOOK_AGAIN_DEAF if heard.deaf else _LOOK_AGAIN):
                        await heard.changed.wait()
                except TimeoutError:
                    continue

    @asynccontextmanager
    async def _listening(self, run_id: str) -> AsyncGenerator[_Heard]:
        """Subscribed before the journal is read, so that nothing falls between."""
        heard = _Heard()
        ready = asyncio.Event()
        task = asyncio.create_task(self._listen(run_id, heard, ready))
        try:
            await ready.wait()
            yield heard
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _listen(self, run_id: str, heard: _Heard, ready: asyncio.Event) -> None:
        while True:
            try:
                async with self._bus.subscribe(run_channel(run_id)) as messages:
                    heard.deaf = False
                    ready.set()
                    async for data in messages:
                        _note(heard, json.loads(data))
            except Unavailable:
                heard.deaf = True
                ready.set()
            await asyncio.sleep(1)


def _note(heard: _Heard, said: dict[str, JsonValue]) -> None:
    delta = said.get("delta")
    if isinstance(delta, dict):
        heard.deltas.append(
            Delta(str(delta["step_id"]), int(str(delta["attempt"])), int(str(delta["offset"])), str(delta["text"]))
        )
    heard.changed.set()
