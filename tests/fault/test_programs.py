"""Random programs whose bookings and results are known beforehand, while workers are killed.

`make soak MINUTES=…` runs the long form: new programs and random kills of every process until the time is up.
"""

import os
import random
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_testing.desk import ended, persistent, until
from fault_testing.ledger import Ledger
from fault_testing.processes import kill, running
from fault_testing.programs import Generator, Program, check_program, declare_child, promote
from slipway_client import Client
from slipway_testkit.stack import Stack

SOAK_MINUTES = float(os.environ.get("SLIPWAY_SOAK_MINUTES") or 0)
PROGRAMS, RUNS_EACH, KILLS = 6, 2, 6
WORKERS = ("worker-1", "worker-2")
EVERYTHING = (
    *WORKERS, "orchestrator", "router", "memory", "tools", "audit", "gateway", "valkey", "postgres",
)  # fmt: skip


def new_seed() -> int:
    seed = int(os.environ.get("SLIPWAY_FAULT_SEED") or secrets.randbits(24))
    print(f"seed {seed}: set SLIPWAY_FAULT_SEED to it for the same programs")
    return seed


def register(alice: Client, bob: Client, seed: int, count: int) -> list[Program]:
    """New programs in production."""
    generator = Generator(seed)
    programs = [generator.program(number) for number in range(count)]
    persistent(lambda: declare_child(alice, bob))
    for program in programs:
        promote(alice, bob, program.name, program.text)
    return programs


def start(alice: Client, program: Program, reference: str) -> str:
    given = {**program.input, "reference": reference}
    key = f"start-{reference}"
    return persistent(lambda: alice.runs.start(program.name, given, idempotency_key=key).run_id)


def again(program: Program, number: int) -> Program:
    """The same program under references of its own."""
    old, new = program.input["reference"], f"{program.input['reference']}r{number}"

    def renamed(value: object) -> object:
        if isinstance(value, dict) and "booking_id" in value:
            return {**value, "booking_id": value["booking_id"].replace(f"B-{old}-", f"B-{new}-")}
        return value

    return Program(
        program.name,
        program.definition,
        {**program.input, "reference": new},
        {name.replace(f"{old}-", f"{new}-", 1): amount for name, amount in program.bookings.items()},
        {name: renamed(value) for name, value in program.output.items()},
    )


def kill_some(stack: Stack, draw: random.Random, victims: Sequence[str], kills: int) -> None:
    for _ in range(kills):
        time.sleep(draw.uniform(0.3, 1.5))
        victim = draw.choice(victims)
        until(lambda name=victim: kill(stack, name), 60, f"{victim} runs, to be killed")


def round_of(
    stack: Stack, ledger: Ledger, seed: int, victims: Sequence[str], programs: int, runs: int, kills: int
) -> None:
    """Programs run while processes are killed; then all of them are what they were predicted to be."""
    draw = random.Random(seed)
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob, ThreadPoolExecutor(1) as pool:
        written = register(alice, bob, seed, programs)
        each = [again(program, number) for program in written for number in range(runs)]
        killing = pool.submit(kill_some, stack, draw, victims, kills)
        run_ids = [start(alice, program, program.input["reference"]) for program in each]
        killing.result(180)
        until(lambda: all(ended(alice, run_id) for run_id in run_ids), 180, "all programs end")
        for run_id, program in zip(run_ids, each, strict=True):
            check_program(alice, ledger, run_id, program)
        until(lambda: all(running(stack, name) for name in victims), 60, "all processes run")


@pytest.mark.timeout(300)
def test_random_programs_come_to_what_was_predicted_while_workers_are_killed(stack: Stack, ledger: Ledger) -> None:
    round_of(stack, ledger, new_seed(), WORKERS, PROGRAMS, RUNS_EACH, KILLS)


@pytest.mark.skipif(not SOAK_MINUTES, reason="the long form: make soak MINUTES=…")
@pytest.mark.timeout(SOAK_MINUTES * 60 + 900)
def test_soak(stack: Stack, ledger: Ledger) -> None:
    """Until the time is up: new programs, and kills of every process of the stack."""
    deadline = time.monotonic() + SOAK_MINUTES * 60
    rounds = 0
    while time.monotonic() < deadline:
        seed = secrets.randbits(24)
        print(f"round {rounds}, seed {seed}", flush=True)
        round_of(stack, ledger, seed, EVERYTHING, 10, 5, 20)
        rounds += 1
    assert rounds > 0
