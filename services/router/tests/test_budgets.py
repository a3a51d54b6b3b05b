"""Budgets: nothing is sent that no budget has room for, whoever asks at whichever replica; answers are billed."""

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections import Counter
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest
from slipway.effects.v1.effects_pb2 import EffectKey
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.bus import open_bus
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.money import from_money, to_money

# "hello": 5 bytes and the overhead of a message, 100 tokens of output at the dearest price, dollars a million 1 and 20.
INPUT_MOST = 13
WORST = (INPUT_MOST * Decimal(1) + 100 * Decimal(20)) / 1_000_000
# 10 input tokens and 4 of output, at 1 and 10 dollars a million.
COST = Decimal("0.00005")
TENANT, USER, KEY, AGENT, RUN = (
    pb.BUDGET_SCOPE_TENANT,
    pb.BUDGET_SCOPE_USER,
    pb.BUDGET_SCOPE_KEY,
    pb.BUDGET_SCOPE_AGENT,
    pb.BUDGET_SCOPE_RUN,
)
DAY, MONTH, TOTAL = pb.BUDGET_PERIOD_DAY, pb.BUDGET_PERIOD_MONTH, pb.BUDGET_PERIOD_TOTAL
REPLICAS = 3


async def answer(exchange, usage):
    choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
    await exchange.json({"model": "scripted-1", "choices": [choice], "usage": usage})


async def ok(exchange):
    await answer(exchange, {"prompt_tokens": 10, "completion_tokens": 4})


async def dear(exchange):
    """Uses all that it was allowed, in the dearest classes."""
    details = {"completion_tokens_details": {"reasoning_tokens": 100}}
    await answer(exchange, {"prompt_tokens": INPUT_MOST, "completion_tokens": 100, **details})


async def broken(exchange):
    await exchange.json({}, 500)


async def hang(exchange):
    await exchange.gone()


async def half(exchange):
    await exchange.open_stream()
    await exchange.delta(content="words ")
    await exchange.gone()


gate = threading.Event()


async def gated(exchange):
    """The first word; the rest when the gate is opened."""
    await exchange.open_stream()
    await exchange.delta(content="words ")
    while not gate.is_set():  # noqa: ASYNC110 - set by another thread
        await asyncio.sleep(0.01)
    await exchange.delta("stop")
    await exchange.event({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 4}})
    await exchange.raw(b"data: [DONE]\n\n")


async def vectors(exchange):
    await exchange.json({"model": "v", "data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 5}})


SCRIPTS = {"ok": ok, "dear": dear, "broken": broken, "hang": hang, "half": half, "gated": gated, "vectors": vectors}
ROUTES = {
    **{script: [script] for script in SCRIPTS},
    "second": ["broken", "ok"],
    "settled": ["dear"],
}


@pytest.fixture(scope="module")
def provider(scripted):
    return scripted(SCRIPTS, ROUTES, settings={"orphan_seconds": "1"})


@pytest.fixture(scope="module")
def replicas(provider, start_router):
    """The provider's router and two more on the same database."""
    first = provider.router
    url = first.environment["SLIPWAY_ROUTER_DATABASE_URL"]
    secrets = {"scripted": "sk-scripted-key"}
    more = [
        start_router(first.catalogue.read_text(), secrets, database_url=url, orphan_seconds="1")
        for _ in range(REPLICAS - 1)
    ]
    return [first, *more]


@pytest.fixture
def admin(provider, connect_to, request):
    """Manages the budgets of the test's own tenant."""
    return connect_to(provider.router, subject="dave", tenant=tenant_of(request), roles=["platform-admin"])


@pytest.fixture
def client(provider, connect_to, request):
    """Alice of the test's own tenant."""
    return connect_to(provider.router, tenant=tenant_of(request))


def tenant_of(request):
    return f"t{abs(hash(request.node.name)) % 10**9}"


def budget(name, limit=None, scope=TENANT, period=DAY, value="", soft=None):
    made = pb.Budget(name=name, scope=scope, scope_value=value, period=period)
    if limit is not None:
        made.limit.CopyFrom(to_money(Decimal(limit)))
    if soft is not None:
        made.soft_limit.CopyFrom(to_money(Decimal(soft)))
    return made


async def put(admin, *args, **fields):
    return await admin.call("UpdateBudget", pb.UpdateBudgetRequest(budget=budget(*args, **fields)))


async def balances(admin, name):
    """Scope value → (spent, reserved)."""
    found = (await admin.call("GetBudget", pb.GetBudgetRequest(name=name))).budget
    return {b.scope_value: (from_money(b.spent), from_money(b.reserved)) for b in found.balances}


async def settled(admin, name, eventually):
    """The balances once nothing is reserved."""

    async def nothing_reserved():
        found = await balances(admin, name)
        return found if all(reserved == 0 for _, reserved in found.values()) else None

    return await eventually(nothing_reserved)


async def outcome(call):
    try:
        await call
    except SlipwayError as error:
        return error.reason
    return "ok"


async def refused(call):
    with pytest.raises(SlipwayError) as caught:
        await call
    assert (caught.value.kind, caught.value.reason) == (ErrorKind.RESOURCE_EXHAUSTED, "BUDGET_EXHAUSTED")
    return caught.value


async def test_two_hundred_calls_at_three_replicas_never_spend_more_than_the_budget(
    replicas, admin, connect_to, request, eventually
):
    room = 50
    await put(admin, "all", WORST * room)
    clients = [connect_to(router, tenant=tenant_of(request)) for router in replicas]
    ended = await asyncio.gather(*(outcome(clients[n % REPLICAS].chat("dear")) for n in range(200)))
    assert Counter(ended) == {"ok": room, "BUDGET_EXHAUSTED": 200 - room}
    assert await settled(admin, "all", eventually) == {tenant_of(request): (WORST * room, 0)}

    async def bill():
        groups = (await admin.call("SummarizeUsage", pb.SummarizeUsageRequest(group_by="outcome"))).groups
        return {group.key: (group.calls, from_money(group.usage.cost)) for group in groups}

    async def is_written():
        assert await bill() == {"ok": (room, WORST * room), "BUDGET_EXHAUSTED": (200 - room, 0)}
        return True

    await eventually(is_written)


async def test_what_a_call_did_not_use_is_free_for_the_next(admin, client, eventually, request):
    await put(admin, "all", WORST + COST)
    await client.chat("ok")
    await settled(admin, "all", eventually)
    await client.chat("ok")
    assert (await settled(admin, "all", eventually))[tenant_of(request)] == (COST * 2, 0)
    error = await refused(client.chat("ok"))
    assert error.metadata == {
        "budget": "all",
        "scope": "tenant",
        "scope_value": tenant_of(request),
        "period": "day",
        "limit_usd": f"{(WORST + COST).normalize():f}",
        "spent_usd": "0.0001",
        "reserved_usd": "0",
        "worst_case_usd": f"{WORST.normalize():f}",
        "resets": error.metadata["resets"],
    }
    # Nothing was sent, but that it was refused is on record.
    assert [row.outcome for row in await client.usage()] == ["BUDGET_EXHAUSTED", "ok", "ok"]


async def test_a_call_that_failed_releases_what_it_held(admin, client, eventually, request):
    await put(admin, "all", WORST)
    assert await outcome(client.chat("broken")) == "PROVIDER_UNAVAILABLE"
    assert (await settled(admin, "all", eventually))[tenant_of(request)] == (0, 0)
    assert await outcome(client.chat("ok")) == "ok"


async def test_each_attempt_of_a_failover_reserves_after_the_one_before_was_released(admin, client):
    # Room for one attempt at a time: the second would be refused if the first were still held.
    await put(admin, "all", WORST)
    answered = await client.chat("second")
    assert (answered.catalogue_model, answered.attempts) == ("second.1", 2)


async def test_a_caller_who_leaves_pays_what_came_and_frees_the_rest(admin, client, provider, eventually, request):
    await put(admin, "all", 1)
    async with contextlib.aclosing(client.stream("half")) as events:
        await anext(events)
    await asyncio.to_thread(provider.hung_up("half").wait, 30)

    async def billed():
        return await client.usage()

    row = (await eventually(billed))[0]
    assert (row.outcome, row.usage.estimated) == ("CANCELLED", True)
    assert (await settled(admin, "all", eventually))[tenant_of(request)] == (from_money(row.usage.cost), 0)


async def test_embeddings_count_as_well(admin, client, eventually, request):
    await put(admin, "all", "0.000014")
    await client.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(model="vectors", inputs=["hello"]))
    assert (await settled(admin, "all", eventually))[tenant_of(request)] == (Decimal("0.000005"), 0)
    await refused(client.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(model="vectors", inputs=["hello"])))


async def test_a_budget_counts_the_calls_of_its_scope_only(provider, admin, connect_to, request, eventually):
    tenant = tenant_of(request)
    await put(admin, "each-user", 1, scope=USER)
    await put(admin, "bob", 1, scope=USER, value="bob")
    await put(admin, "each-key", 1, scope=KEY, period=MONTH)
    await put(admin, "desk", 1, scope=AGENT, value="desk", period=TOTAL)
    callers = [
        {"subject": "alice", "act": "desk@3"},
        {"subject": "bob", "act": "other@1"},
        {"subject": "api-key:ci", "owner": "bob"},
    ]
    for caller in callers:
        await connect_to(provider.router, tenant=tenant, **caller).chat("ok")
    spent = {}
    for name in ("each-user", "bob", "each-key", "desk"):
        spent[name] = {value: pair[0] for value, pair in (await settled(admin, name, eventually)).items()}
    assert spent == {
        "each-user": {"alice": COST, "bob": 2 * COST},
        "bob": {"bob": 2 * COST},
        "each-key": {"ci": COST},
        "desk": {"desk": COST},
    }
    groups = await admin.call("SummarizeUsage", pb.SummarizeUsageRequest(group_by="user"))
    assert {group.key: group.calls for group in groups.groups} == {"alice": 1, "bob": 2}


async def test_the_tightest_budget_decides_and_the_others_hold_nothing_of_a_refused_call(admin, client, request):
    await put(admin, "roomy", 1)
    await put(admin, "tight", WORST / 2, scope=USER)
    error = await refused(client.chat("ok"))
    assert (error.metadata["budget"], error.metadata["scope_value"]) == ("tight", "alice")
    assert (await balances(admin, "roomy"))[tenant_of(request)] == (0, 0)


async def test_runs_below_a_root_run_share_its_limit_and_its_budget(admin, client, eventually):
    await put(admin, "each-run", 1, scope=RUN, period=TOTAL)

    async def step(run, root, limit):
        effect = EffectKey(key=f"{run}/step/1", epoch=1, attempt=1, root_run_id=root)
        await client.chat("ok", effect=effect, run_max_cost=to_money(Decimal(limit)))

    root, child = "run_01jd0000000000000000000001", "run_01jd0000000000000000000002"
    limit = WORST + COST / 2
    await step(root, "", limit)
    error = await refused(step(child, root, limit))
    assert (error.metadata["scope"], error.metadata["scope_value"], error.metadata["budget"]) == ("run", root, "")
    # Raised by whoever may.
    child = "run_01jd0000000000000000000003"
    await step(child, root, WORST + COST)
    assert await settled(admin, "each-run", eventually) == {root: (2 * COST, 0)}
    rows = await client.usage()
    assert {row.root_run_id for row in rows} == {root}
    assert [row.run_id for row in rows if row.outcome == "ok"] == [child, root]


async def test_a_budget_of_nothing_lets_only_free_models_through(admin, client, eventually):
    await put(admin, "none", 0)
    await refused(client.chat("ok"))


async def test_a_soft_limit_is_told_once_and_refuses_nothing(admin, client, valkey_url, request):
    bus = await open_bus(valkey_url)
    found = asyncio.Queue()

    async def take(message, _attempt):
        event = json.loads(json.loads(message.body)["event"]) if b'"event"' in message.body else {}
        if event.get("tenant") == tenant_of(request) and event["type"].startswith("budget."):
            found.put_nowait(event)

    consuming = asyncio.create_task(bus.consume("audit.events", f"budgets-{tenant_of(request)}", take))
    try:
        await put(admin, "warns", scope=USER, soft=COST * 2)
        for _ in range(4):
            await client.chat("ok")
        assert (await asyncio.wait_for(found.get(), 20))["type"] == "budget.updated"
        event = await asyncio.wait_for(found.get(), 20)
        assert event["type"] == "budget.soft_limit_reached"
        assert (event["resource"], event["subject"], event["data"]["value"]) == ("budget/warns", "alice", "alice")
        await admin.call("DeleteBudget", pb.DeleteBudgetRequest(name="warns"))
        assert (await asyncio.wait_for(found.get(), 20))["type"] == "budget.deleted"
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        await bus.close()


async def test_another_limit_keeps_what_was_spent_another_scope_does_not(admin, client, eventually, request):
    assert (await put(admin, "b", 1)).created
    await client.chat("ok")
    await settled(admin, "b", eventually)
    changed = await put(admin, "b", 2)
    assert (changed.created, from_money(changed.budget.limit)) == (False, 2)
    assert [from_money(balance.spent) for balance in changed.budget.balances] == [COST]
    assert (await put(admin, "b", 2, period=MONTH)).budget.balances == []
    await admin.call("DeleteBudget", pb.DeleteBudgetRequest(name="b"))
    with pytest.raises(SlipwayError) as caught:
        await admin.call("GetBudget", pb.GetBudgetRequest(name="b"))
    assert caught.value.reason == "BUDGET_UNKNOWN"


async def test_budgets_are_listed_by_name_in_pages_for_their_tenant_only(admin, provider, connect_to):
    for name in ("c", "a", "b"):
        await put(admin, name, 1)
    first = await admin.call("ListBudgets", pb.ListBudgetsRequest(page_size=2))
    rest = await admin.call("ListBudgets", pb.ListBudgetsRequest(page_token=first.next_page_token))
    assert [found.name for found in [*first.budgets, *rest.budgets]] == ["a", "b", "c"]
    stranger = connect_to(provider.router, tenant="elsewhere", roles=["platform-admin"])
    assert list((await stranger.call("ListBudgets", pb.ListBudgetsRequest())).budgets) == []


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (budget("", 1), "budget.name"),
        (budget("Name", 1), "budget.name"),
        (budget("b", 1, scope=pb.BUDGET_SCOPE_UNSPECIFIED), "budget.scope"),
        (budget("b", 1, period=pb.BUDGET_PERIOD_UNSPECIFIED), "budget.period"),
        (budget("b"), "budget.limit"),
        (budget("b", -1), "budget.limit"),
        (budget("b", 1, soft=2), "budget.soft_limit"),
        (budget("b", 1, value="acme"), "budget.scope_value"),
    ],
)
async def test_a_budget_that_makes_no_sense_is_refused(admin, wrong, field):
    with pytest.raises(SlipwayError) as caught:
        await admin.call("UpdateBudget", pb.UpdateBudgetRequest(budget=wrong))
    assert caught.value.field == field


async def test_who_may_not_manage_budgets_may_only_read_them(admin, client, provider, connect_to, request):
    await put(admin, "b", 1)
    assert (await client.call("GetBudget", pb.GetBudgetRequest(name="b"))).budget.name == "b"
    agent = connect_to(provider.router, tenant=tenant_of(request), roles=["platform-admin"], act="desk@1")
    for caller in (client, agent):
        with pytest.raises(SlipwayError) as caught:
            await put(caller, "b", 100)
        assert caught.value.kind is ErrorKind.PERMISSION_DENIED


async def test_an_answer_whose_router_was_killed_before_it_was_written_is_on_the_bill(
    provider, admin, connect_to, start_router, request, eventually
):
    await put(admin, "all", 1)
    url = provider.router.environment["SLIPWAY_ROUTER_DATABASE_URL"]
    doomed = start_router(provider.router.catalogue.read_text(), {"scripted": "sk-scripted-key"}, database_url=url)
    database = await asyncpg.connect(url)
    try:
        async with database.transaction():
            # Nothing can be written down now, but reserved and answered.
            await database.execute("LOCK TABLE model_usage IN SHARE MODE")
            answered = await connect_to(doomed, tenant=tenant_of(request)).chat("settled")
            os.kill(doomed.process.pid, signal.SIGKILL)
            await asyncio.to_thread(doomed.process.exit_code)
    finally:
        await database.close()

    async def billed():
        return await admin.usage(answered.request_id)

    row = (await eventually(billed, timeout=30))[0]
    assert (row.outcome, row.usage.estimated, row.subject) == ("ORPHANED", True, "alice")
    assert from_money(row.usage.cost) == WORST
    assert await settled(admin, "all", eventually) == {tenant_of(request): (WORST, 0)}


async def test_a_frozen_router_corrects_the_bill_when_it_comes_back(
    provider, admin, connect_to, start_router, request, eventually
):
    await put(admin, "all", 1)
    url = provider.router.environment["SLIPWAY_ROUTER_DATABASE_URL"]
    frozen = start_router(provider.router.catalogue.read_text(), {"scripted": "sk-scripted-key"}, database_url=url)

    async def outcome_on_the_bill(outcome):
        rows = await admin.usage(started.request_id)
        return rows if [row.outcome for row in rows] == [outcome] else None

    async with contextlib.aclosing(connect_to(frozen, tenant=tenant_of(request)).stream("gated")) as events:
        started = (await anext(events)).started
        os.kill(frozen.process.pid, signal.SIGSTOP)
        try:
            orphan = (await eventually(lambda: outcome_on_the_bill("ORPHANED"), timeout=30))[0]
        finally:
            os.kill(frozen.process.pid, signal.SIGCONT)
        gate.set()
        assert [event async for event in events][-1].finished.finish_reason == "stop"
    assert from_money(orphan.usage.cost) == WORST
    row = (await eventually(lambda: outcome_on_the_bill("ok"), timeout=30))[0]
    assert from_money(row.usage.cost) == COST

    async def corrected():
        return await balances(admin, "all") == {tenant_of(request): (COST, 0)}

    await eventually(corrected)


async def test_what_was_reserved_and_not_sent_is_released_when_its_router_dies(
    provider, admin, client, request, eventually
):
    """As a router leaves it that dies while an attempt waits for its turn."""
    await put(admin, "all", WORST)
    await client.chat("ok")
    await settled(admin, "all", eventually)
    database = await asyncpg.connect(provider.router.environment["SLIPWAY_ROUTER_DATABASE_URL"])
    columns = (
        [UUID(int=1)], [UUID(int=2)], [tenant_of(request)], ["req_dead"], [""], ["alice"], [""], [""], [None],
        [Decimal("0.0001")], ["reserved"], [600.0], ["{}"], [], [],
    )  # fmt: skip
    try:
        placeholders = ", ".join(f"${n}" for n in range(2, 17))
        refusals = await database.fetchval(f"SELECT router_reserve($1, {placeholders})", UUID(int=0xDEAD), *columns)
        assert refusals == [None]
        assert (await balances(admin, "all"))[tenant_of(request)][1] in (Decimal("0.0001"), 0)
    finally:
        await database.close()
    assert await settled(admin, "all", eventually) == {tenant_of(request): (COST, 0)}
    assert await client.usage("req_dead") == []
