"""Runs in flight while processes of the stack are killed at random."""

import os
import random
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_testing.desk import Order, approve_all, check_evidence, check_run, ended, start, until
from fault_testing.ledger import Ledger
from fault_testing.processes import kill, running
from slipway_testkit.stack import Stack

RUNS = 30
KILLS = 30
VICTIMS = (
    "worker-1", "worker-2", "orchestrator", "router", "memory", "tools", "audit", "gateway", "valkey", "postgres",
)  # fmt: skip


class Killer:
    """Kills a random process of the stack about once a second."""

    def __init__(self, stack: Stack, draw: random.Random) -> None:
        self._stack = stack
        self._draw = draw
        self.killed: list[str] = []

    def run(self) -> None:
        """Until enough have died. Who comes next follows from the seed; what they are doing then does not."""
        # Everybody's turn comes equally often, in an order that is new in every round.
        turns = [victim for _ in range(KILLS // len(VICTIMS)) for victim in self._draw.sample(VICTIMS, len(VICTIMS))]
        for victim in turns:
            time.sleep(self._draw.uniform(0.05, 1.5))
            until(lambda name=victim: kill(self._stack, name), 60, f"{victim} runs, to be killed")
            self.killed.append(victim)


@pytest.mark.timeout(300)
def test_no_run_is_lost_or_done_twice_while_processes_are_killed_at_random(stack: Stack, ledger: Ledger) -> None:
    seed = int(os.environ.get("SLIPWAY_FAULT_SEED") or secrets.randbits(32))
    print(f"seed {seed}: set SLIPWAY_FAULT_SEED to it for the same victims in the same order")
    draw = random.Random(seed)
    orders = [Order(draw.randrange(10_000), f"kills-{seed}-{n}", gated=n % 3 == 0) for n in range(RUNS)]
    killer = Killer(stack, draw)
    decided = threading.Event()
    with (
        stack.as_user("alice") as alice,
        stack.as_user("carol") as carol,
        ThreadPoolExecutor(4) as pool,
    ):
        killing = pool.submit(killer.run)
        approving = pool.submit(approve_all, stack, {order.reference for order in orders}, decided)
        try:
            run_ids: list[str] = []
            for order in orders:
                # Spread over the time of the killing.
                until(lambda: killing.done() or len(killer.killed) * RUNS >= len(run_ids) * KILLS, 60, "the next kill")
                run_ids.append(start(alice, order))
            killing.result(120)
            until(
                lambda: all(ended(alice, run_id) for run_id in run_ids), 120, f"all runs end; killed: {killer.killed}"
            )
        finally:
            decided.set()
        approving.result(30)
        assert len(set(run_ids)) == RUNS
        for run_id, order in zip(run_ids, orders, strict=True):
            check_run(alice, ledger, run_id, order)
        # Nothing was started twice either.
        listed = [run.run_id for run in alice.runs.list(agent="fault-desk")]
        assert set(run_ids) <= set(listed)
        assert len(listed) == len(set(listed))
        for run_id in run_ids:
            check_evidence(carol, run_id, len(list(alice.runs.events(run_id))))
        # What broke told no word of what it was working on.
        logs = sorted((stack.data_dir / "logs").iterdir())
        assert not [log.name for log in logs if f"kills-{seed}" in log.read_text(errors="replace")]
        # Everything is up again for whoever comes next.
        until(lambda: all(running(stack, name) for name in VICTIMS), 60, "all processes run")
    assert len(killer.killed) == KILLS
