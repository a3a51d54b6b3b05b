"""Runs of the agent `steady`, and what becomes of them."""

import itertools
import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from cluster_testing.cluster import forwarded, ready_pods
from cluster_testing.desk import Desk

STEPS = 16


def begin(desk: Desk, count: int, agent: str = "steady", not_before: datetime | None = None) -> list[str]:
    """Runs that are started, or due at a time."""
    batch = secrets.token_hex(4)
    return [desk.start(agent, f"batch {batch}, run {n}", not_before) for n in range(count)]


def begin_at(due: datetime, count: int, agent: str) -> list[str]:
    """Runs that all become due at one time, started over several connections."""

    def some(share: int) -> list[str]:
        desk = Desk()
        try:
            return begin(desk, share, agent, due)
        finally:
            desk.close()

    with ThreadPoolExecutor(5) as pool:
        runs = list(itertools.chain.from_iterable(pool.map(some, [count // 5] * 5)))
    assert datetime.now(UTC) < due, "starting the runs took longer than until they are due"
    return runs


def expect_whole(desk: Desk, runs: list[str], *, steps: int = STEPS, seconds: float = 240) -> None:
    """Every run ends well, no event is missing, and each of its steps has happened once."""
    assert len(set(runs)) == len(runs)
    for run_id in runs:
        run = desk.ended(run_id, seconds=seconds)
        assert run.state == "SUCCEEDED", (run_id, run.error)
        events = desk.ask("alice", lambda client, run_id=run_id: list(client.runs.events(run_id)))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        done = [event.step_id for event in events if event.kind == "step.completed"]
        assert len(done) == len(set(done)) == steps, run_id


def workers_that_took_runs() -> set[str]:
    """Names of the ready workers that have claimed a run in their lives."""
    pods = ready_pods("worker")
    with ThreadPoolExecutor(max(1, len(pods))) as pool:
        return {pod for pod, claimed in zip(pods, pool.map(_claims, pods), strict=True) if claimed}


def _claims(pod: str) -> float:
    import httpx

    with forwarded(f"pod/{pod}", 9090) as port:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=10).text
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("slipway_claim_seconds_count"))
