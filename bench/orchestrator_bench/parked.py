"""100,000 runs that wait for approval: a row each, and nothing else."""

import asyncio
import json
import re
import statistics
import urllib.request
from dataclasses import dataclass

import asyncpg
import psutil

from orchestrator_bench import ours

# Copies of one run that really parked, with its journal and its approval.
_COPY = """
INSERT INTO run SELECT (jsonb_populate_record(
        run, jsonb_build_object('run_id', 'run_' || n, 'root_run_id', 'run_' || n, 'session_id', ''))).*
    FROM run, generate_series(1, $1) n WHERE run.state = 'WAITING_APPROVAL';
"""
_COPY_APPROVALS = """
INSERT INTO approval
    SELECT (jsonb_populate_record(approval, jsonb_build_object('run_id', 'run_' || n, 'approval_id', 'apr_' || n))).*
    FROM approval, generate_series(1, $1) n WHERE approval.state = 'PENDING';
"""


@dataclass(frozen=True)
class Found:
    """What was measured."""

    sweep_ms: float
    grown_mib: float
    decision_ms: float


async def measure(stack: ours.Stack, count: int) -> Found:
    """Park so many runs, then look at the worker's sweeps, at its memory, and at decisions among them."""
    await ours.promote_gated(stack)
    await ours.decision_seconds(stack, 20)  # everything is loaded
    worker = stack.processes[-1]
    process = psutil.Process(worker.process.pid)
    before = process.memory_full_info().uss
    await stack.begin({}, "gated")
    await ours.ended(stack)
    conn = await asyncpg.connect(stack.database_url)
    try:
        await conn.execute(_COPY, count, timeout=300)
        await conn.execute(_COPY_APPROVALS, count, timeout=300)
        await conn.execute("VACUUM ANALYZE run", timeout=300)
    finally:
        await conn.close()
    port = next(json.loads(line)["metrics"] for line in worker.lines if "service.ready" in line)
    since = await asyncio.to_thread(_sweeps, port)
    await asyncio.sleep(12)
    until = await asyncio.to_thread(_sweeps, port)
    grown = process.memory_full_info().uss - before
    seconds = await ours.decision_seconds(stack, 20)
    return Found(
        sweep_ms=1000 * (until[0] - since[0]) / (until[1] - since[1]),
        grown_mib=grown / 2**20,
        decision_ms=1000 * statistics.median(seconds),
    )


def _sweeps(port: int) -> tuple[float, float]:
    """Seconds that a worker's sweeps took so far, and how many there were."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found = [re.search(rf"^slipway_sweep_seconds_{name} (\S+)", text, re.MULTILINE) for name in ("sum", "count")]
    return float(found[0][1]), float(found[1][1])
