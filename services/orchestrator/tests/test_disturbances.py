"""Connections that fail in the middle: commits whose answer is lost, brokers that confirm to nobody, silence."""

import asyncio
import json
import os
import random
import secrets
import signal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pytest
from orchestrator_testing.definitions import workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway_testkit.faulty_proxy import FaultyProxy, Mode, faulty_proxy

QUICK = {"SLIPWAY_ORCHESTRATOR_LEASE_SECONDS": "2", "SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS": "1"}
RUNS = 6
DESK = workflow(
    """
    - {id: a, set: 1}
    - {id: b, set: "${steps.a.output + 1}"}
    - parallel:
        - {id: left, tool: {name: ledger.post, arguments: {amount: "${steps.b.output}"}}}
        - {id: right, tool: {name: python, arguments: {code: "1"}}}
        - map:
            over: [1, 2, 3]
            concurrency: 2
            step: {id: each, tool: {name: ledger.post, arguments: {amount: "${item}"}}}
    - {id: later, wait: {for: 100ms}}
    - {id: last, tool: {name: ledger.post, arguments: {amount: 9}}}
""",
    '{sum: "${steps.b.output + steps.last.output.posted}"}',
    limits="{steps: 100, tokens: 0, cost_usd: 0, wall_time: 1h, tool_errors: 9, repeats: 9}",
)
EFFECTS = {"left": 1, "right": 1, "each[0]": 1, "each[1]": 1, "each[2]": 1, "last": 1}


def through(url: str, proxy: FaultyProxy) -> str:
    """The same server, reached through the proxy."""
    parts = urlsplit(url)
    userinfo = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=userinfo + proxy.address, query=""))


def socket_of(database_url: str) -> Path:
    """The Unix socket that the embedded PostgreSQL listens on."""
    (folder,) = parse_qs(urlsplit(database_url).query)["host"]
    return Path(folder) / ".s.PGSQL.5432"


async def _all_end_as_they_should(stack: Stack, world: World, run_ids: list[str]) -> None:
    for run_id in run_ids:
        run = await stack.finish(run_id, seconds=90)
        assert run.state == 8, run.error
        assert json.loads(run.output_json) == {"sum": 11}
        events = await stack.journal(run_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        done = {key.split("/")[1]: count for key, count in world.effects.items() if key.startswith(run_id)}
        assert done == EFFECTS
        completed = [event.step_id for event in events if event.kind == "step.completed"]
        assert len(completed) == len(set(completed))


MANY = int(os.environ.get("SLIPWAY_FAULT_RUNS") or 150)


@pytest.mark.timeout(300 + MANY)
async def test_many_runs_at_once_survive_workers_that_are_killed_every_second(stack: Stack, world: World) -> None:
    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        await asyncio.sleep(0.05)
        return {"posted": arguments["amount"]} if name == "ledger.post" else {"refund": 1}

    world.tool = slow
    await stack.promote(DESK)
    workers = [await stack.worker(**QUICK) for _ in range(2)]
    beginning = asyncio.create_task(_begin_many(stack))
    kills = 0
    while not await _all_ended(stack, MANY):
        await asyncio.sleep(1)
        doomed = workers.pop(0)
        doomed.send(signal.SIGKILL)
        await doomed.ended()
        kills += 1
        workers.append(await stack.worker(**QUICK))
    assert kills >= 2
    await _all_end_as_they_should(stack, world, await beginning)


async def _begin_many(stack: Stack) -> list[str]:
    return [await stack.begin() for _ in range(MANY)]


async def _all_ended(stack: Stack, count: int) -> bool:
    (row,) = await stack.sql("SELECT count(*) AS ended FROM run WHERE end_time IS NOT NULL")
    return row["ended"] == count


async def _disturbed(stack: Stack, world: World, proxy: FaultyProxy, modes: tuple[Mode, ...]) -> None:
    seed = int(os.environ.get("SLIPWAY_FAULT_SEED") or secrets.randbits(24))
    print(f"seed {seed}: set SLIPWAY_FAULT_SEED to it for the same faults")
    draw = random.Random(seed)

    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        await asyncio.sleep(0.1)
        return {"posted": arguments["amount"]} if name == "ledger.post" else {"refund": 1}

    world.tool = slow
    await stack.promote(DESK)
    run_ids = []
    for number in range(RUNS):
        run_ids.append(await stack.begin())
        await asyncio.sleep(draw.uniform(0.05, 0.3))
        await proxy.fail(draw.choice(modes) if number % 2 else modes[0], draw.uniform(0.1, 1.0))
    assert proxy.lost > 0, "no answer was lost"
    await _all_end_as_they_should(stack, world, run_ids)


async def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_made_twice(
    stack: Stack, world: World, database_url: str
) -> None:
    async with faulty_proxy(socket_of(database_url)) as proxy:
        await stack.worker(**QUICK, SLIPWAY_ORCHESTRATOR_DATABASE_URL=through(database_url, proxy))
        await _disturbed(stack, world, proxy, ("lose-answers", "lose-answers", "refuse"))


@pytest.mark.timeout(180)
async def test_runs_go_on_when_the_database_is_silent_for_a_while(
    stack: Stack, world: World, database_url: str
) -> None:
    async with faulty_proxy(socket_of(database_url)) as proxy:
        await stack.worker(**QUICK, SLIPWAY_ORCHESTRATOR_DATABASE_URL=through(database_url, proxy))
        await stack.worker(**QUICK)
        await _disturbed(stack, world, proxy, ("black-hole", "lose-answers"))


async def test_runs_go_on_when_the_broker_confirms_to_nobody(stack: Stack, world: World, valkey_url: str) -> None:
    parts = urlsplit(valkey_url)
    if parts.hostname is None or parts.port is None:
        pytest.skip("this Valkey listens on no port")
    async with faulty_proxy((parts.hostname, parts.port)) as proxy:
        await stack.worker(**QUICK, SLIPWAY_ORCHESTRATOR_BUS_URL=through(valkey_url, proxy))
        await _disturbed(stack, world, proxy, ("lose-answers", "black-hole", "refuse"))
