"""Slipway's api and workers on a database of their own, and what is measured of them."""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from slipway.runs.v1 import runs_pb2
from slipway_testkit.signing import SigningAuthority
from slipway_testkit.waiting import eventually

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT / "services" / "orchestrator" / "tests"))

from orchestrator_testing import executors  # noqa: E402
from orchestrator_testing.definitions import workflow  # noqa: E402
from orchestrator_testing.stack import FreshProgram, Stack, environment  # noqa: E402

_LIMITS = "{steps: 10000, tokens: 0, cost_usd: 0, wall_time: 2d, tool_errors: 3, repeats: 3, on_limit: fail}"
_UNENDED = "SELECT count(*) AS n FROM run WHERE state IN ('QUEUED', 'RUNNING')"


@asynccontextmanager
async def running(
    database_url: str, bus_url: str, *, workers: int, concurrency: int, **more: str
) -> AsyncIterator[Stack]:
    """An api process and workers. `more`: further settings."""
    with tempfile.TemporaryDirectory() as folder:
        signing = SigningAuthority(Path(folder))
        server, target = await executors.serve(executors.World(), signing)
        settings = environment(
            database_url=database_url,
            bus_url=bus_url,
            target=target,
            jwks=signing.jwks_file,
            policy_dir=_ROOT / "k8s" / "policies",
            SLIPWAY_ORCHESTRATOR_CONCURRENCY=str(concurrency),
            **more,
        )
        stack = Stack(FreshProgram(), settings, signing, database_url)
        try:
            await stack.start("api")
            for _ in range(workers):
                await stack.worker()
            yield stack
        finally:
            await stack.close()
            await server.stop(None)


async def promote_chain(stack: Stack, steps: int) -> str:
    """An agent of so many `set` steps, one after the other."""
    name = f"chain-{steps}"
    lines = "\n".join(f"    - {{id: s{number}, set: {number}}}" for number in range(steps))
    await stack.promote(workflow(lines, "{}", name=name, limits=_LIMITS), name=name)
    return name


async def steps_per_second(stack: Stack, agent: str, runs: int, steps: int) -> float:
    """Durable steps per second of so many runs at once: from the first start to the last end, as a client sees it."""
    began = time.perf_counter()
    ids = await asyncio.gather(*(stack.begin({}, agent) for _ in range(runs)))
    await ended(stack)
    seconds = time.perf_counter() - began
    rows = await stack.sql(
        "SELECT count(*) AS n FROM run_event WHERE kind = 'step.completed' AND run_id = ANY($1)", list(ids)
    )
    if rows[0]["n"] != runs * steps:
        raise RuntimeError(f"{rows[0]['n']} steps in the journal, not {runs * steps}")
    return runs * steps / seconds


async def ended(stack: Stack) -> None:
    """Wait until no run is unfinished that is not parked."""

    async def none() -> bool:
        return not (await stack.sql(_UNENDED))[0]["n"]

    await eventually(none, 300)


async def start_seconds(stack: Stack, agent: str, count: int) -> list[float]:
    """Seconds from the request to the run's id, one start after the other."""
    metadata = [("authorization", f"Bearer {stack.token('alice')}")]
    request = runs_pb2.StartRunRequest(agent=agent, input_json="{}", run_grant=f"alice/acme/{agent}")
    seconds: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await stack.runs.StartRun(request, metadata=metadata, timeout=20)
        seconds.append(time.perf_counter() - began)
    return seconds


async def promote_gated(stack: Stack) -> None:
    """The agent `gated`: an approval, and a step behind it."""
    steps = "    - {id: gate, approval: {approvers: ['role:refund-approver'], show: 1}}\n    - {id: after, set: 1}"
    await stack.promote(workflow(steps, "{}", name="gated", limits=_LIMITS), name="gated")


async def decision_seconds(stack: Stack, count: int) -> list[float]:
    """Seconds from a decision's commit to the start of the step behind the gate, one after the other."""
    ids = [await stack.begin({}, "gated") for _ in range(count)]
    for run_id in ids:
        await stack.decide(await stack.pending(run_id), "approve")
    await ended(stack)
    rows = await stack.sql(
        "SELECT extract(epoch FROM e.time - a.decide_time)::float8 AS seconds FROM approval a JOIN run_event e"
        " ON e.run_id = a.run_id AND e.kind = 'step.started' AND e.step_id = 'after' WHERE a.run_id = ANY($1)",
        ids,
    )
    if len(rows) != count:
        raise RuntimeError(f"{len(rows)} of {count} decisions took effect")
    return [row["seconds"] for row in rows]


async def long_run(stack: Stack, steps: int) -> tuple[float, float]:
    """A tenth of the steps at the end of a long run against a tenth near its start; and its steps per second."""
    run_id = await stack.begin({}, await promote_chain(stack, steps))
    await ended(stack)
    rows = await stack.sql(
        "SELECT extract(epoch FROM time)::float8 AS at FROM run_event"
        " WHERE run_id = $1 AND kind = 'step.completed' ORDER BY seq",
        run_id,
    )
    at = [row["at"] for row in rows]
    if len(at) != steps:
        raise RuntimeError(f"{len(at)} of {steps} steps")
    tenth = steps // 10
    return (at[-1] - at[-1 - tenth]) / (at[2 * tenth] - at[tenth]), steps / (at[-1] - at[0])


async def idle_share(database_url: str, bus_url: str, workers: int, seconds: float) -> float:
    """Share of one core that idle workers take together."""
    async with running(database_url, bus_url, workers=workers, concurrency=8) as stack:
        processes = [psutil.Process(process.process.pid) for process in stack.processes[1:]]
        await asyncio.sleep(10)
        before, since = _cpu(processes), time.monotonic()
        await asyncio.sleep(seconds)
        return (_cpu(processes) - before) / (time.monotonic() - since)


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def quantile(values: list[float], share: float) -> float:
    """The value below which so large a share of the values lies."""
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]
