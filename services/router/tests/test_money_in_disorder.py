"""Whatever happens to calls, callers and routers: budgets hold, nothing stays reserved, the bill is what was spent."""

import asyncio
import contextlib
import os
import random
import signal
from decimal import Decimal

import asyncpg
import pytest
from slipway.effects.v1.effects_pb2 import EffectKey
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import SlipwayError
from slipway_chassis.money import from_money, to_money

REPLICAS = 3
CALLS = 120
WORST = (13 * Decimal(1) + 100 * Decimal(20)) / 1_000_000
USAGE = {"prompt_tokens": 13, "completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": 60}}


async def dear(exchange):
    if exchange.body.get("stream"):
        await exchange.open_stream()
        for _ in range(3):
            await exchange.delta(content="word ")
            await asyncio.sleep(0.01)
        await exchange.delta("stop")
        await exchange.event({"model": "scripted-1", "choices": [], "usage": USAGE})
        await exchange.raw(b"data: [DONE]\n\n")
        return
    choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
    await exchange.json({"model": "scripted-1", "choices": [choice], "usage": USAGE})


async def broken(exchange):
    await exchange.json({}, 500)


async def refused(exchange):
    await exchange.json({"error": {"message": "no"}}, 400)


async def half(exchange):
    """Half an answer, then the connection is gone."""
    if exchange.body.get("stream"):
        await exchange.open_stream()
        await exchange.delta(content="words ")
    else:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
    raise ConnectionResetError


async def late(exchange):
    await asyncio.sleep(0.2)
    await dear(exchange)


async def vectors(exchange):
    data = [{"index": n, "embedding": [1.0]} for n in range(len(exchange.body["input"]))]
    await exchange.json({"model": "v", "data": data, "usage": {"prompt_tokens": 5}})


SCRIPTS = {"dear": dear, "broken": broken, "refused": refused, "half": half, "late": late, "vectors": vectors}
ROUTES = {
    "plain": ["dear"],
    "fallback": ["broken", "dear"],
    "refused": ["refused"],
    "half": ["half"],
    "hedged": ["late", "dear"],
    "vectors": ["vectors"],
}


@pytest.fixture(scope="module")
def provider(scripted):
    return scripted(SCRIPTS, ROUTES, settings={"orphan_seconds": "1"}, routes_with={"hedged": {"hedge_seconds": 0.05}})


@pytest.fixture(scope="module")
def replicas(provider, start_router):
    first = provider.router
    url = first.environment["SLIPWAY_ROUTER_DATABASE_URL"]
    secrets = {"scripted": "sk-scripted-key"}
    more = [
        start_router(first.catalogue.read_text(), secrets, database_url=url, orphan_seconds="1")
        for _ in range(REPLICAS - 1)
    ]
    return [first, *more]


async def streamed(client, route, leave_after, **fields):
    async with contextlib.aclosing(client.stream(route, **fields)) as events:
        async for _ in events:
            leave_after -= 1
            if leave_after == 0:
                return


async def one_call(client, chance, number):
    route = chance.choice(list(ROUTES))
    fields = {}
    if chance.random() < 0.3:
        run = f"run_01jd00000000000000000000{chance.randrange(10):02}"
        fields["effect"] = EffectKey(key=f"{run}/{number}/1", epoch=1, attempt=1)
        fields["run_max_cost"] = to_money(WORST * 4)
    if route == "vectors":
        call = client.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(model=route, inputs=["hello"], **fields))
    elif chance.random() < 0.4:
        call = streamed(client, route, chance.choice([1, 2, 99]), **fields)
    else:
        call = client.chat(route, **fields)
    with contextlib.suppress(SlipwayError, TimeoutError):
        async with asyncio.timeout(chance.choice([0.02, 0.1, 30])):
            await call


async def test_every_dollar_is_accounted_for(replicas, provider, connect_to, eventually):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    admin = connect_to(replicas[0], subject="dave", roles=["platform-admin"])
    limits = {"all": WORST * 60, "each-user": WORST * 30, "month": Decimal(1)}
    scopes = {"all": pb.BUDGET_SCOPE_TENANT, "each-user": pb.BUDGET_SCOPE_USER, "month": pb.BUDGET_SCOPE_TENANT}
    for name, limit in limits.items():
        period = pb.BUDGET_PERIOD_MONTH if name == "month" else pb.BUDGET_PERIOD_DAY
        budget = pb.Budget(name=name, scope=scopes[name], period=period, limit=to_money(limit))
        await admin.call("UpdateBudget", pb.UpdateBudgetRequest(budget=budget))
    clients = [connect_to(router, subject=subject) for router in replicas for subject in ("alice", "bob", "carol")]
    calls = [asyncio.create_task(one_call(chance.choice(clients), chance, n)) for n in range(CALLS)]
    await asyncio.wait(calls[: CALLS // 3], return_when=asyncio.FIRST_COMPLETED)
    os.kill(replicas[2].process.pid, signal.SIGKILL)
    await asyncio.gather(*calls)

    database = await asyncpg.connect(provider.router.environment["SLIPWAY_ROUTER_DATABASE_URL"])
    try:

        async def is_quiet():
            return not await database.fetchval(
                "SELECT count(*) FROM reservation WHERE state <> 'expired' OR held_usd <> 0"
            )

        await eventually(is_quiet, timeout=60)
        counters = await database.fetch(
            "SELECT name, value, spent, reserved FROM budget_counter LEFT JOIN budget USING (budget_key)"
        )
        assert all(counter["reserved"] == 0 for counter in counters)
        bill = await database.fetchval("SELECT sum(cost_usd) FROM model_usage")
        by_person = dict(await database.fetch("SELECT person, sum(cost_usd) FROM model_usage GROUP BY 1"))
        runs = dict(await database.fetch("SELECT root_run_id, sum(cost_usd) FROM model_usage GROUP BY 1"))
    finally:
        await database.close()
    for counter in counters:
        name, value, spent = counter["name"], counter["value"], counter["spent"]
        assert spent <= limits.get(name, WORST * 4)
        assert spent == (runs[value] if name is None else by_person[value] if name == "each-user" else bill)
    budgets = (await admin.call("ListBudgets", pb.ListBudgetsRequest())).budgets
    assert {budget.name for budget in budgets} == set(limits)
    assert from_money(next(b for b in budgets if b.name == "all").balances[0].spent) == bill
