"""The orchestrator against DBOS, LangGraph and the bare transaction, on one PostgreSQL with fsync, turn by turn.

Prints one JSON line a figure. Peers are installed on first use into ~/.cache/slipway-bench. Each round measures all of
them one after the other, so that whatever else the machine does meets all; ratios are medians of the rounds' ratios.
Usage: bench/orchestrator.py [--rounds N] [--steps N] [--only FIGURE …]; figures: steps, start, decision, long, parked,
idle.
"""

import argparse
import asyncio
import json
import os
import statistics
from collections.abc import Sequence

from orchestrator_bench import ours, parked
from orchestrator_bench.journal_transaction import transactions_per_second
from orchestrator_bench.peers import PEERS, Peers
from slipway_testkit.servers.postgres import PostgresServer, embedded_postgres
from slipway_testkit.servers.redis import valkey

FIGURES = ("steps", "start", "decision", "long", "parked", "idle")
RUNS = (1, 10, 32)
_RATIO = {1: 2.0, 10: 3.0, 32: 3.0}
_OF_PGBENCH: dict[int, float | None] = {1: 0.6, 10: 0.4, 32: None}
_EVENTS_A_STEP = 2
_WORKERS = os.cpu_count() or 1


def figure(name: str, value: float, unit: str, target: float | None = None, **more: object) -> None:
    """Print a figure; a target is what it is to reach, or to stay under when its name says `at most`."""
    line = {"bench": "orchestrator", "figure": name, "value": round(value, 3), "unit": unit, "target": target, **more}
    print(json.dumps(line), flush=True)


async def steps(server: PostgresServer, bus_url: str, rounds: int, count: int) -> None:
    """Durable steps, beside the peers, and journal events, beside pgbench."""
    peers = Peers()
    peers.install()
    concurrency = -(-max(RUNS) // _WORKERS)
    taken: dict[tuple[str, int], list[float]] = {}
    async with ours.running(server.create_database(), bus_url, workers=_WORKERS, concurrency=concurrency) as stack:
        agent = await ours.promote_chain(stack, count)
        await ours.steps_per_second(stack, agent, 4, count)
        for _ in range(rounds):
            for runs in RUNS:
                one = taken.setdefault(("slipway", runs), [])
                one.append(await ours.steps_per_second(stack, agent, runs, count))
                bare = await asyncio.to_thread(transactions_per_second, server, runs, 2)
                taken.setdefault(("pgbench", runs), []).append(bare)
                for peer in PEERS:
                    url = server.create_database()
                    rate = await asyncio.to_thread(peers.steps_per_second, peer, url, runs, count)
                    taken.setdefault((peer, runs), []).append(rate)
                    server.drop_database(url)
    for runs in RUNS:
        own = taken["slipway", runs]
        figure(f"durable steps, {runs} at once", statistics.median(own), "1/s", workers=_WORKERS)
        for peer in PEERS:
            other = taken[peer, runs]
            ratio = statistics.median(a / b for a, b in zip(own, other, strict=True))
            figure(
                f"durable steps against {peer}, {runs} at once",
                ratio,
                "ratio",
                _RATIO[runs],
                peer=round(statistics.median(other)),
            )
        bare = taken["pgbench", runs]
        share = statistics.median(_EVENTS_A_STEP * a / b for a, b in zip(own, bare, strict=True))
        figure(
            f"journal events against pgbench, {runs} at once",
            share,
            "ratio",
            _OF_PGBENCH[runs],
            peer=round(statistics.median(bare)),
        )


async def start(server: PostgresServer, bus_url: str) -> None:
    """Start of a run to its id, beside one journal commit of one client."""
    async with ours.running(server.create_database(), bus_url, workers=1, concurrency=8) as stack:
        agent = await ours.promote_chain(stack, 1)
        await ours.start_seconds(stack, agent, 50)
        await ours.ended(stack)
        taken = await ours.start_seconds(stack, agent, 200)
        bare = 1 / await asyncio.to_thread(transactions_per_second, server, 1, 3)
    p50 = statistics.median(taken)
    figure("start of a run to its id, p50", 1000 * p50, "ms")
    figure("start against one journal commit, at most", p50 / bare, "ratio", 2.0, commit_ms=round(1000 * bare, 3))


async def decision(server: PostgresServer, bus_url: str) -> None:
    """An approval is decided, and the next step begins."""
    async with ours.running(server.create_database(), bus_url, workers=_WORKERS, concurrency=8) as stack:
        await ours.promote_gated(stack)
        taken = await ours.decision_seconds(stack, 200)
    figure("approval decided to next step, p50, at most", 1000 * ours.quantile(taken, 0.5), "ms", 30)
    figure("approval decided to next step, p99, at most", 1000 * ours.quantile(taken, 0.99), "ms", 150)


async def long(server: PostgresServer, bus_url: str) -> None:
    """A run of 2,000 steps: what the last ones cost, beside the first."""
    async with ours.running(server.create_database(), bus_url, workers=1, concurrency=8) as stack:
        ratio, rate = await ours.long_run(stack, 2000)
    figure("cost of a step at the end of 2,000, at most", ratio, "ratio", 1.2, steps_per_s=round(rate))


async def many_parked(server: PostgresServer, bus_url: str) -> None:
    """100,000 runs that wait for approval."""
    often = {"SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS": "1"}
    async with ours.running(server.create_database(), bus_url, workers=1, concurrency=8, **often) as stack:
        found = await parked.measure(stack, 100_000)
    figure("a sweep over 100,000 parked runs, at most", found.sweep_ms, "ms", 50)
    figure("a worker's memory with 100,000 parked runs, grown by, at most", found.grown_mib, "MiB", 2)
    figure("approval decided to next step among 100,000", found.decision_ms, "ms")


async def idle(server: PostgresServer, bus_url: str) -> None:
    """What eight workers take that have nothing to do."""
    share = await ours.idle_share(server.create_database(), bus_url, 8, 20)
    figure("8 idle workers, of one core, at most", 100 * share, "%", 1)


async def main(rounds: int, count: int, only: Sequence[str]) -> None:
    """Measure what was asked for."""
    with embedded_postgres(durable=True) as server, valkey() as bus:
        if "steps" in only:
            await steps(server, bus.url, rounds, count)
        for name, measure in (
            ("start", start),
            ("decision", decision),
            ("long", long),
            ("parked", many_parked),
            ("idle", idle),
        ):
            if name in only:
                await measure(server, bus.url)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="steps of a run")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=FIGURES)
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.steps, given.only))
