"""Budgets stay exact and the bill stays whole while PostgreSQL and Valkey are killed and come back."""

import asyncio
import threading
from collections import Counter
from decimal import Decimal

import pytest
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import SlipwayError
from slipway_chassis.money import from_money, to_money
from slipway_testkit.servers import redis
from slipway_testkit.servers.postgres import embedded_postgres

WORST = (13 * Decimal(1) + 100 * Decimal(20)) / 1_000_000
ROOM = 20
REPLICAS = 2
TENANT = "acme"
held = threading.Event()
let_go = threading.Event()


async def dear(exchange):
    """Uses all that it was allowed, in the dearest classes; the first one waits until it is let go."""
    if not held.is_set():
        held.set()
        while not let_go.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
    choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 13, "completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": 100}}
    await exchange.json({"model": "scripted-1", "choices": [choice], "usage": usage})


@pytest.fixture(scope="module")
def servers():
    """PostgreSQL and Valkey of this module's own: it kills them."""
    with embedded_postgres() as postgres, redis.valkey() as valkey:
        yield postgres, valkey


@pytest.fixture(scope="module")
def replicas(servers, scripted, start_router):
    postgres, valkey = servers
    urls = {"database_url": postgres.create_database(), "redis_url": valkey.url, "bus_url": valkey.url}
    provider = scripted({"dear": dear}, {"dear": ["dear"]}, settings=urls)
    catalogue = provider.router.catalogue.read_text()
    others = [start_router(catalogue, {"scripted": "sk-scripted-key"}, **urls) for _ in range(REPLICAS - 1)]
    return [provider.router, *others]


async def outcome(call):
    try:
        await call
    except SlipwayError as error:
        return error.reason
    return "ok"


async def test_no_budget_is_exceeded_and_no_answer_missing_from_the_bill(servers, replicas, connect_to, eventually):
    postgres, valkey = servers
    clients = [connect_to(router) for router in replicas]
    admin = connect_to(replicas[0], roles=["platform-admin"])
    limit = to_money(WORST * ROOM)
    budget = pb.Budget(name="b", scope=pb.BUDGET_SCOPE_TENANT, period=pb.BUDGET_PERIOD_DAY, limit=limit)
    await admin.call("UpdateBudget", pb.UpdateBudgetRequest(budget=budget))

    first = asyncio.create_task(outcome(clients[0].chat("dear")))
    await asyncio.to_thread(held.wait, 30)
    # It was sent, so it was reserved for; now its provider answers while there is nowhere to write that down.
    await asyncio.to_thread(postgres.process.stop, crash=True)
    await asyncio.to_thread(valkey.stop, crash=True)
    let_go.set()
    assert await first == "ok"
    assert await outcome(clients[1].chat("dear")) == "STORE_UNAVAILABLE"
    (postgres.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
    await asyncio.to_thread(postgres.start)

    # Valkey is still away: budgets do not need it.
    ended = await asyncio.gather(*(outcome(clients[n % REPLICAS].chat("dear")) for n in range(3 * ROOM)))
    assert Counter(ended) == {"ok": ROOM - 1, "BUDGET_EXHAUSTED": 2 * ROOM + 1}
    await asyncio.to_thread(valkey.start)

    async def is_settled():
        found = (await admin.call("GetBudget", pb.GetBudgetRequest(name="b"))).budget.balances[0]
        return (from_money(found.spent), from_money(found.reserved)) == (WORST * ROOM, 0)

    await eventually(is_settled, timeout=30)
    groups = (await admin.call("SummarizeUsage", pb.SummarizeUsageRequest(group_by="outcome"))).groups
    bill = {group.key: (group.calls, from_money(group.usage.cost)) for group in groups}
    assert bill["ok"] == (ROOM, WORST * ROOM)
