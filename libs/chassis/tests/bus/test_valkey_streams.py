"""What only the adapter over streams has: leases, trimming, members of a group. On Valkey and on Debian's Redis."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis
from slipway_chassis.bus import DEAD_REASON, Bus, Message, open_bus, valkey_consumer
from slipway_testkit.consuming import Consumers, Inbox
from slipway_testkit.plugin import required_or_skipped
from slipway_testkit.servers.redis import debian_redis, valkey

TOPIC, GROUP = "run.wakeup", "workers"
# Where all commands are counted, a server that nobody else speaks to.
_OWN = {"own_valkey": valkey, "own_redis": debian_redis}


@pytest.fixture(params=["valkey_url", pytest.param("redis_url", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if start := _OWN.get(request.param):
        with required_or_skipped(start()) as server:
            yield server.url
    else:
        yield request.getfixturevalue(request.param)


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def stream(namespace: str) -> str:
    return f"{namespace}:{TOPIC}"


@pytest.fixture
async def client(url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(url, protocol=2) as connected:
        yield connected


@pytest.fixture
async def bus(url: str, namespace: str) -> AsyncIterator[Bus]:
    opened = await open_bus(url, namespace=namespace)
    yield opened
    await opened.close()


@pytest.fixture
async def consumers(bus: Bus) -> AsyncIterator[Consumers]:
    started = Consumers()
    yield started
    await started.close()


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of 400 ms instead of 10 s, renewed every 50 ms."""
    monkeypatch.setattr(valkey_consumer, "CLAIM_MS", 400)
    monkeypatch.setattr(valkey_consumer, "_HOLD_SECONDS", 0.05)
    monkeypatch.setattr(valkey_consumer, "_SWEEP_SECONDS", 0.1)


@pytest.fixture
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_consumer, "_SWEEP_SECONDS", 0.1)


async def publish(bus: Bus, count: int) -> None:
    for number in range(count):
        await bus.publish(Message(f"m{number}", TOPIC, b"{}"))


@pytest.mark.usefixtures("short_leases")
async def test_handler_that_runs_longer_than_a_lease_keeps_its_message(bus, client, stream, consumers, eventually):
    finish = asyncio.Event()
    started: list[int] = []

    async def handle(message: Message, deliveries: int) -> None:
        started.append(deliveries)
        await finish.wait()

    consumers.start(bus.consume(TOPIC, GROUP, handle))
    rival = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, rival))
    await publish(bus, 1)
    before = await client.time()

    async def three_leases_later() -> bool:
        return (await client.time())[0] - before[0] >= 2

    await eventually(three_leases_later)
    holders = [started, rival.seen]
    assert sorted(len(seen) for seen in holders) == [0, 1]
    finish.set()

    async def acknowledged() -> bool:
        return (await client.xpending(stream, GROUP))["pending"] == 0

    await eventually(acknowledged)


@pytest.mark.usefixtures("quick_sweeps")
async def test_acknowledged_entries_are_trimmed_but_not_those_another_group_still_needs(
    bus, client, stream, consumers, eventually
):
    await client.xgroup_create(stream, "late", id="0", mkstream=True)
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await publish(bus, 10)
    await eventually(lambda: len(inbox.seen) == 10)
    late = Inbox(fail=lambda message, deliveries: ValueError() if message.id == "m7" else None)
    assert await client.xlen(stream) == 10
    consumers.start(bus.consume(TOPIC, "late", late, max_deliveries=2, concurrency=1))

    await eventually(lambda: "m9" in late.ids)

    async def up_to_the_parked_one() -> bool:
        return [fields[b"id"] for _, fields in await client.xrange(stream)] == [b"m7", b"m8", b"m9"]

    await eventually(up_to_the_parked_one)

    async def empty() -> bool:
        return await client.xlen(stream) == 0

    await eventually(empty, timeout=20)


async def test_stopped_consumer_leaves_no_member_behind(bus, client, stream, consumers, eventually):
    inbox = Inbox()
    running = consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await publish(bus, 1)
    await eventually(lambda: inbox.seen)
    assert len(await client.xinfo_consumers(stream, GROUP)) == 1
    await consumers.stop(running)
    assert await client.xinfo_consumers(stream, GROUP) == []


async def test_entry_that_no_publisher_wrote_becomes_a_dead_letter(bus, client, stream, consumers, eventually):
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    entry = await client.xadd(stream, {"body": b"what is this", "headers": "["})
    (dead,) = await eventually(lambda: bus.dead_letters(TOPIC, GROUP, 10))
    assert (dead.id, dead.topic, dead.body) == (entry.decode(), TOPIC, b"what is this")
    assert dead.headers[DEAD_REASON].startswith("MALFORMED")
    assert inbox.seen == []


async def test_unix_socket_and_valkeys_own_scheme_reach_the_same_bus(valkey_server, namespace, eventually):
    inbox = Inbox()
    over_tcp = await open_bus(valkey_server.url.replace("redis://", "valkey://"), namespace=namespace)
    over_socket = await open_bus(valkey_server.socket_url, namespace=namespace)
    consumers = Consumers()
    consumers.start(over_socket.consume(TOPIC, GROUP, inbox))
    await over_tcp.publish(Message("m1", TOPIC, b"{}"))
    await eventually(lambda: inbox.seen)
    async with over_socket.subscribe("run.a") as heard:
        await over_tcp.broadcast("run.a", b"x")
        assert await asyncio.wait_for(anext(heard), 10) == b"x"
    await consumers.close()
    await over_tcp.close()
    await over_socket.close()


async def test_hundreds_of_publishers_wait_for_their_turn(bus, client, stream):
    await asyncio.gather(*(bus.publish(Message(f"m{number}", TOPIC, b"{}")) for number in range(500)))
    assert await client.xlen(stream) == 500


@pytest.mark.parametrize("url", ["own_valkey", pytest.param("own_redis", marks=pytest.mark.servers)], indirect=True)
async def test_idle_consumer_and_subscriber_cost_the_server_less_than_two_commands_a_second(
    bus, client, stream, consumers, eventually
):
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await publish(bus, 1)
    await eventually(lambda: inbox.seen)

    async def commands() -> int:
        return (await client.info("stats"))["total_commands_processed"]

    async with bus.subscribe("run.a"):
        before, begun = await commands(), (await client.time())[0]
        asked = 0

        async def six_seconds_later() -> bool:
            nonlocal asked
            asked += 1
            return (await client.time())[0] - begun >= 6

        await eventually(six_seconds_later, interval=0.5)
        assert await commands() - before - asked - 2 < 12
