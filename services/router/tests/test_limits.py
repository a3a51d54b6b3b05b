"""How fast models may be asked: shared by replicas, per key and for all, in requests and tokens, with a queue."""

import asyncio
import os
import signal
import threading
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
import pytest
from redis.asyncio import Redis
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.caller import Caller
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.money import from_money, to_money
from slipway_router.catalogue import Model, Provider, Rates, Throttle
from slipway_router.cost import Price
from slipway_router.shared_throttle import SharedThrottle
from slipway_router.throttle import LocalBuckets, RateLimitReached, draws_of

# "hello" is estimated as 10 tokens, and 100 may be answered; 14 are used.
WORST_TOKENS, USED_TOKENS = 110, 14
gate = threading.Event()


async def ok(exchange):
    choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    await exchange.json({"model": "scripted-1", "choices": [choice], "usage": usage})


async def gated(exchange):
    while not gate.is_set():  # noqa: ASYNC110 - set by another thread
        await asyncio.sleep(0.01)
    await ok(exchange)


# Two a minute: the next one is there after half a minute, and no test takes that long.
LIMITS = {
    "requests": {"requests_per_minute": 2},
    "keys": {"each_key": {"requests_per_minute": 2}},
    "tokens": {"tokens_per_minute": 2 * WORST_TOKENS},
    "used": {"tokens_per_minute": 2 * WORST_TOKENS},
    "queued": {"requests_per_minute": 60, "queue_seconds": 10},
    "waiting": {"requests_per_minute": 2, "queue_seconds": 60},
    "spill": {"requests_per_minute": 2},
}
ROUTES = {name: ["gated" if name == "tokens" else "ok"] for name in LIMITS} | {"spill": ["ok", "ok"]}


@pytest.fixture(scope="module")
def provider(scripted):
    models_with = {f"{name}.0": {"limits": limits} for name, limits in LIMITS.items()}
    return scripted({"ok": ok, "gated": gated}, ROUTES, settings={"orphan_seconds": "1"}, models_with=models_with)


@pytest.fixture(scope="module")
def replica(provider, start_router):
    """A second router on the same database and Redis."""
    url = provider.router.environment["SLIPWAY_ROUTER_DATABASE_URL"]
    catalogue = provider.router.catalogue.read_text()
    return start_router(catalogue, {"scripted": "sk-scripted-key"}, database_url=url, orphan_seconds="1")


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


async def outcome(call):
    try:
        await call
    except SlipwayError as error:
        return error.reason
    return "ok"


async def test_requests_are_counted_over_replicas_and_refused_with_the_time_to_come_back(provider, replica, connect_to):
    clients = [connect_to(provider.router), connect_to(replica, subject="bob")]
    ended = await asyncio.gather(*(outcome(clients[n % 2].chat("requests")) for n in range(10)))
    assert Counter(ended) == {"ok": 2, "RATE_LIMITED": 8}
    with pytest.raises(SlipwayError) as caught:
        await clients[0].chat("requests")
    assert caught.value.kind is ErrorKind.RESOURCE_EXHAUSTED
    assert 0 < caught.value.retry_after <= 30
    assert len(provider.seen("requests")) == 2


async def test_each_key_has_a_limit_of_its_own(provider, connect_to):
    for subject, tenant in (("alice", "acme"), ("bob", "acme"), ("alice", "globex")):
        client = connect_to(provider.router, subject=subject, tenant=tenant)
        ended = await asyncio.gather(*(outcome(client.chat("keys")) for _ in range(4)))
        assert Counter(ended) == {"ok": 2, "RATE_LIMITED": 2}


async def test_tokens_of_calls_under_way_count_with_their_worst_case(client):
    calls = [asyncio.create_task(outcome(client.chat("tokens"))) for _ in range(3)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert [call.result() for call in done] == ["RATE_LIMITED"]
    gate.set()
    assert Counter(await asyncio.gather(*calls)) == {"ok": 2, "RATE_LIMITED": 1}


async def test_tokens_that_were_not_used_are_given_back(client):
    # One after the other, for less than the worst case of three.
    for _ in range(7):
        assert await outcome(client.chat("used")) == "ok"


async def test_a_call_waits_for_its_turn_as_long_as_the_queue_reaches(client):
    ended = await asyncio.gather(*(outcome(client.chat("queued")) for _ in range(62)))
    assert Counter(ended) == {"ok": 62}


async def test_another_candidate_takes_what_the_first_one_may_not(client):
    answers = await asyncio.gather(*(client.chat("spill") for _ in range(5)))
    assert Counter(answer.catalogue_model for answer in answers) == {"spill.0": 2, "spill.1": 3}


async def test_a_call_that_waits_for_its_turn_owes_nothing_when_its_router_dies(
    provider, connect_to, start_router, eventually
):
    url = provider.router.environment["SLIPWAY_ROUTER_DATABASE_URL"]
    catalogue = provider.router.catalogue.read_text()
    doomed = start_router(catalogue, {"scripted": "sk-scripted-key"}, database_url=url, orphan_seconds="1")
    admin = connect_to(provider.router, tenant="waiting", roles=["platform-admin"])
    budget = pb.Budget(name="b", scope=pb.BUDGET_SCOPE_TENANT, period=pb.BUDGET_PERIOD_DAY, limit=to_money(Decimal(1)))
    await admin.call("UpdateBudget", pb.UpdateBudgetRequest(budget=budget))
    client = connect_to(doomed, tenant="waiting")
    for _ in range(2):
        await client.chat("waiting")
    assert len(await client.usage()) == 2
    waiting = asyncio.create_task(outcome(client.chat("waiting", request_id="req_waiting")))
    database = await asyncpg.connect(url)
    try:
        query = "SELECT state FROM reservation WHERE request_id = 'req_waiting'"
        assert await eventually(lambda: database.fetchval(query)) == "reserved"
        os.kill(doomed.process.pid, signal.SIGKILL)
        assert await waiting != "ok"

        async def released():
            return await database.fetchval(query) is None

        await eventually(released, timeout=30)
    finally:
        await database.close()
    assert await admin.usage("req_waiting") == []
    found = (await admin.call("GetBudget", pb.GetBudgetRequest(name="b"))).budget.balances[0]
    assert (from_money(found.spent), from_money(found.reserved)) == (Decimal("0.0001"), 0)
    assert len(provider.seen("waiting")) == 2


def model_with(together=None, *, queue_seconds=0.0):
    price = Price(Decimal(1), Decimal(1), Decimal(1), Decimal(1))
    provider = Provider("p", "http://p", "", frozenset({"eu"}))
    throttle = Throttle(together or Rates(), Rates(), queue_seconds)
    return Model(
        "m", provider, "m", "chat", 1000, 100, "max_tokens", frozenset(), price, frozenset(), throttle=throttle
    )


ALICE = Caller("alice", "acme", "user", frozenset(), frozenset(), None, None, "tok", datetime.now(UTC))


@pytest.fixture(params=["shared", "degraded"])
async def throttle(request, cache_url, free_port):
    url = cache_url if request.param == "shared" else f"redis://127.0.0.1:{free_port()}"
    redis = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    yield SharedThrottle(redis, prefix=f"test:{os.urandom(6).hex()}")
    await redis.aclose()


async def test_buckets_are_the_same_in_redis_and_without_it(throttle):
    model = model_with(Rates(requests_per_minute=3, tokens_per_minute=1000), queue_seconds=25)
    for _ in range(2):
        assert (await throttle.take(ALICE, model, 400)).wait == 0
    # The tokens are used up sooner than the requests: 200 are wanting, 1000 come in a minute.
    third = await throttle.take(ALICE, model, 400)
    assert 11.5 < third.wait <= 12
    with pytest.raises(RateLimitReached) as caught:
        await throttle.take(ALICE, model, 400)
    assert 35.5 < caught.value.retry_after <= 36
    await throttle.give_back(third, tokens=None)
    third = await throttle.take(ALICE, model, 400)
    assert 11.5 < third.wait <= 12
    await throttle.give_back(third, tokens=100)
    # The requests are used up now.
    assert 19.5 < (await throttle.take(ALICE, model, 1)).wait <= 20


async def test_a_call_larger_than_the_bucket_takes_all_of_it(throttle):
    model = model_with(Rates(tokens_per_minute=100))
    turn = await throttle.take(ALICE, model, 10_000)
    assert turn.wait == 0
    with pytest.raises(RateLimitReached):
        await throttle.take(ALICE, model, 1)
    await throttle.give_back(turn, tokens=40)
    assert (await throttle.take(ALICE, model, 60)).wait == 0


def test_a_bucket_fills_evenly():
    now = [0.0]
    buckets = LocalBuckets(lambda: now[0])
    draws = draws_of(model_with(Rates(requests_per_minute=60)), "acme", "alice", 1)
    assert [buckets.take(draws, 0) for _ in range(60)] == [0] * 60
    assert buckets.take(draws, 0) == -1000
    now[0] += 2
    assert [buckets.take(draws, 0) >= 0 for _ in range(3)] == [True, True, False]
    assert buckets.take(draws, 1) == 1000


def test_models_without_limits_ask_nobody():
    assert draws_of(model_with(), "acme", "alice", 1) == ()
