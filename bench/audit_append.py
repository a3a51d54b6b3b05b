"""Audit append against a plain INSERT, in batches of 500, turn by turn; one JSON line.

Events/s through the log (checked, sealed, hashed, in the tree), rows/s of an INSERT of the same bytes.

Run: `python bench/audit_append.py [ROUNDS]`
"""

import asyncio
import base64
import json
import os
import statistics
import sys
import time
from datetime import UTC, datetime

from slipway_audit.leaf import Leaf, parse_leaf
from slipway_audit.store import LogStore
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import Evidence
from slipway_chassis.postgres import migrate, open_pool
from slipway_testkit.servers.postgres import embedded_postgres

BATCH = 500
_CALLER = Caller("alice", "acme", "user", frozenset({"operator"}), frozenset(), "desk@1", None, "t", datetime.now(UTC))


def messages() -> list[tuple[str, bytes]]:
    """Ids and bodies of a batch of model calls of about 1 KiB, from 20 subjects."""
    evidence = Evidence("router", None)  # pyright: ignore[reportArgumentType] - nothing is recorded here
    sealed = [
        evidence.seal(
            "model.call",
            caller=_CALLER,
            subject=f"user{number % 20}",
            resource="model/smollm2-135m",
            data={"prompt": os.urandom(250).hex(), "cost_usd": "0.000123"},
            time=datetime.now(UTC),
            run_id=f"run_{number % 40}",
        )
        for number in range(BATCH)
    ]
    return [
        (
            one.event_id,
            json.dumps(
                {"event": one.canonical.decode(), "salt": one.salt.hex(), "commitment": one.commitment}
            ).encode(),
        )
        for one in sealed
    ]


async def main(rounds: int) -> None:
    """Alternate both, so that whatever else the machine does meets both."""
    with embedded_postgres() as server:
        pool = await open_pool(server.create_database())
        await migrate(pool, "slipway_audit", chassis=("outbox", "subject_keys"))
        await pool.execute("CREATE TABLE plain (tenant text, id text, body bytea, PRIMARY KEY (tenant, id))")
        store = LogStore(pool, SubjectKeys(pool, base64.b64encode(bytes(32)).decode()))
        appends: list[float] = []
        inserts: list[float] = []
        for _ in range(rounds):
            batch = messages()
            began = time.perf_counter()
            leaves: list[Leaf] = [parse_leaf(message_id, "acme", body, {}) for message_id, body in batch]
            await store.append("acme", leaves)
            appends.append(time.perf_counter() - began)
            ids, bodies = zip(*batch, strict=True)
            began = time.perf_counter()
            await pool.execute(
                "INSERT INTO plain SELECT 'acme', * FROM unnest($1::text[], $2::bytea[])", list(ids), list(bodies)
            )
            inserts.append(time.perf_counter() - began)
        await pool.close()
    append, insert = BATCH / statistics.median(appends), BATCH / statistics.median(inserts)
    figure = {
        "bench": "audit_append",
        "events_per_s": round(append),
        "insert_rows_per_s": round(insert),
        "ratio": round(append / insert, 3),
        "target_ratio": 0.3,
        "rounds": rounds,
    }
    print(json.dumps(figure))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
