"""100,000 runs that wait for approval: a row each, and nothing else."""

import asyncio
import statistics
import time
from dataclasses import dataclass

import asyncpg
import psutil
from slipway_orchestrator.store import leases

from orchestrator_bench import ours

# Copies of one run that really parked, with its journal and its approval.
_COPY = """
INSERT INTO run SELECT (jsonb_populate_record(run, jsonb_build_object('run_id', 'run_' || n, 'session_id', ''))).*
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
    """Park so many runs, then look at a sweep, at a worker's memory, and at one decision among them."""
    await ours.decision_seconds(stack, 5)  # everything is loaded
    worker = psutil.Process(stack.processes[-1].process.pid)
    before = worker.memory_full_info().uss
    await stack.begin({}, "gated")
    await ours.ended(stack)
    conn = await asyncpg.connect(stack.database_url)
    try:
        await conn.execute("ALTER TABLE approval DISABLE TRIGGER ALL")
        await conn.execute(_COPY, count, timeout=300)
        await conn.execute(_COPY_APPROVALS, count, timeout=300)
        await conn.execute("VACUUM ANALYZE run", timeout=300)
        passes: list[float] = []
        for _ in range(20):
            began = time.perf_counter()
            for statement, *arguments in leases.SWEEP_STATEMENTS:
                await conn.fetch(statement, *arguments)
            passes.append(time.perf_counter() - began)
    finally:
        await conn.close()
    await asyncio.sleep(12)  # two sweeps of the worker
    grown = worker.memory_full_info().uss - before
    seconds = await ours.decision_seconds(stack, 5)
    return Found(1000 * statistics.median(passes), grown / 2**20, 1000 * statistics.median(seconds))
