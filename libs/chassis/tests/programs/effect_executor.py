"""Executes one effect for the fault tests: appends a line to a file, then waits for ever. DATABASE, FILE, IN_DOUBT."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from slipway_chassis.caller import Caller
from slipway_chassis.effects import EffectKey, EffectLedger
from slipway_chassis.postgres import open_pool

CALLER = Caller(
    "alice", "acme", "user", frozenset(), frozenset(), None, None, "j", datetime.now(UTC) + timedelta(minutes=5)
)


async def main(database: str, file: str, in_doubt: str) -> None:
    """Perform the effect."""
    ledger = EffectLedger(await open_pool(database), heartbeat=0.1, dead_after=1)

    async def act() -> bytes:
        with Path(file).open("a") as lines:  # noqa: ASYNC230 - one line
            lines.write("done by the one that is killed\n")
        await asyncio.Event().wait()
        return b""

    await ledger.perform(CALLER, EffectKey("run_1/pay/1", 1), b"f", act, in_doubt=in_doubt)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
