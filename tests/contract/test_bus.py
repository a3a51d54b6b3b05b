"""One suite over both adapters of the bus, each against its real server."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import aio_pika
import pytest
from redis.asyncio import Redis
from slipway_chassis import telemetry
from slipway_chassis.bus import DEAD_DELIVERIES, DEAD_REASON, MAX_BODY_BYTES, Message, MessageTooLarge
from slipway_chassis.errors import NotFound
from slipway_testkit.consuming import Inbox

TOPIC, GROUP = "run.wakeup", "workers"


def message(number: int | str, body: bytes = b"{}") -> Message:
    return Message(f"m{number}", TOPIC, body, tenant="acme", headers={"traceparent": f"00-{number}"})


async def groups_exist(bus, *inboxes: Inbox) -> bool:
    """A group that has got one message misses none from then on."""
    await bus.publish(message("warm-up"))
    return all(inbox.seen for inbox in inboxes)


async def test_message_published_before_any_consumer_reaches_the_first_one_unchanged(bus, consumers, eventually):
    await bus.publish(message(1))
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await eventually(lambda: inbox.seen)
    assert inbox.seen == [(message(1), 1)]


async def test_message_is_handled_in_the_trace_that_it_comes_from(bus, consumers, eventually):
    traces: list[str] = []

    async def handler(_: Message, __: int) -> None:
        traces.append(telemetry.current_trace_id())

    consumers.start(bus.consume(TOPIC, GROUP, handler))
    with telemetry.span("publisher"):
        sent = telemetry.current_trace_id()
        await bus.publish(Message("m1", TOPIC, b"{}", headers=telemetry.inject()))
    await eventually(lambda: traces)
    assert traces == [sent]


async def test_acknowledged_message_is_not_delivered_again(bus, consumers, eventually):
    first, second = Inbox(), Inbox()
    running = consumers.start(bus.consume(TOPIC, GROUP, first))
    await bus.publish(message(1))
    await eventually(lambda: first.seen)
    await consumers.stop(running)
    consumers.start(bus.consume(TOPIC, GROUP, second, concurrency=1))
    await bus.publish(message(2))
    await eventually(lambda: second.seen)
    assert second.ids == ["m2"]


async def test_single_consumer_gets_messages_in_the_order_of_publishing(bus, consumers, eventually):
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox, concurrency=1))
    await eventually(lambda: groups_exist(bus, inbox))
    for number in range(50):
        await bus.publish(message(number))
    await eventually(lambda: "m49" in inbox.ids)
    assert [seen for seen in inbox.ids if seen != "mwarm-up"] == [f"m{number}" for number in range(50)]


async def test_messages_published_together_keep_their_order_and_one_that_is_refused_stops_no_other(
    bus, consumers, eventually
):
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox, concurrency=1))
    await eventually(lambda: groups_exist(bus, inbox))
    messages = [message(number) for number in range(60)]
    messages[20] = message("large", bytes(MAX_BODY_BYTES + 1))
    outcomes = await bus.publish_all(messages)
    assert [place for place, outcome in enumerate(outcomes) if outcome is not None] == [20]
    assert isinstance(outcomes[20], MessageTooLarge)
    await eventually(lambda: "m59" in inbox.ids)
    assert [seen for seen in inbox.ids if seen != "mwarm-up"] == [f"m{n}" for n in range(60) if n != 20]


async def test_every_group_gets_every_message(bus, consumers, eventually):
    workers, auditors = Inbox(), Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, workers))
    consumers.start(bus.consume(TOPIC, "audit", auditors))
    await eventually(lambda: groups_exist(bus, workers, auditors))
    for number in range(20):
        await bus.publish(message(number))
    expected = {f"m{number}" for number in range(20)}
    await eventually(lambda: expected <= set(workers.ids) and expected <= set(auditors.ids))


async def test_competing_consumers_share_the_messages_and_get_each_once(new_bus, consumers, eventually):
    both_busy = asyncio.Barrier(2)
    taken: list[list[str]] = [[], []]

    def handler_of(consumer: int):
        async def handle(got: Message, deliveries: int) -> None:
            taken[consumer].append(got.id)
            if len(taken[consumer]) == 1:
                await both_busy.wait()

        return handle

    for consumer in range(2):
        bus = await new_bus()
        consumers.start(bus.consume(TOPIC, GROUP, handler_of(consumer), concurrency=2))
    publisher = await new_bus()
    await asyncio.gather(*(publisher.publish(message(number)) for number in range(100)))
    await eventually(lambda: len(taken[0]) + len(taken[1]) >= 100)
    assert sorted(taken[0] + taken[1]) == sorted(f"m{number}" for number in range(100))


async def test_no_more_handlers_run_at_a_time_than_allowed(bus, consumers, eventually):
    running, most, finish = 0, 0, asyncio.Event()
    done = []

    async def handle(got: Message, deliveries: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await finish.wait()
        running -= 1
        done.append(got.id)

    for number in range(12):
        await bus.publish(message(number))
    consumers.start(bus.consume(TOPIC, GROUP, handle, concurrency=3))
    await eventually(lambda: running == 3)
    finish.set()
    await eventually(lambda: len(done) == 12)
    assert most == 3


async def test_failed_message_comes_again_later_with_its_count(bus, consumers, eventually):
    times = []
    inbox = Inbox(
        fail=lambda got, deliveries: times.append(time.monotonic()) or (ValueError() if deliveries < 3 else None)
    )
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await bus.publish(message(1))
    await eventually(lambda: len(inbox.seen) == 3)
    assert inbox.seen == [(message(1), 1), (message(1), 2), (message(1), 3)]
    assert times[1] - times[0] > 0.15
    assert times[2] - times[1] > 0.9


async def test_failed_message_does_not_hold_up_the_next_ones(bus, consumers, eventually):
    inbox = Inbox(fail=lambda got, deliveries: ValueError() if got.id == "m0" else None)
    consumers.start(bus.consume(TOPIC, GROUP, inbox, concurrency=1))
    for number in range(3):
        await bus.publish(message(number))
    await eventually(lambda: {"m1", "m2"} <= set(inbox.ids))
    assert inbox.ids[:3] == ["m0", "m1", "m2"]


async def test_retry_of_a_stopped_consumers_message_goes_to_another(new_bus, consumers, eventually):
    failing, inbox = Inbox(fail=lambda got, deliveries: ValueError()), Inbox()
    bus, other = await new_bus(), await new_bus()
    running = consumers.start(bus.consume(TOPIC, GROUP, failing))
    await bus.publish(message(1))
    await eventually(lambda: failing.seen)
    await consumers.stop(running)
    consumers.start(other.consume(TOPIC, GROUP, inbox))
    await eventually(lambda: inbox.seen, timeout=20)
    assert inbox.seen == [(message(1), len(failing.seen) + 1)]


async def test_message_goes_to_the_dead_letters_with_the_reason_after_the_last_delivery(bus, consumers, eventually):
    inbox = Inbox(fail=lambda got, deliveries: NotFound("run run_1 does not exist"))
    consumers.start(bus.consume(TOPIC, GROUP, inbox, max_deliveries=2))
    await bus.publish(message(1))
    (dead,) = await eventually(lambda: bus.dead_letters(TOPIC, GROUP, 10))
    assert (dead.id, dead.topic, dead.body, dead.tenant) == ("m1", TOPIC, b"{}", "acme")
    assert dead.headers == {
        "traceparent": "00-1",
        DEAD_REASON: "NOT_FOUND: run run_1 does not exist",
        DEAD_DELIVERIES: "2",
    }
    assert [deliveries for _, deliveries in inbox.seen] == [1, 2]
    # Looking does not take them away.
    await eventually(lambda: bus.dead_letters(TOPIC, GROUP, 10))


async def test_dead_letter_tells_nothing_of_an_unexpected_errors_text(bus, consumers, eventually):
    inbox = Inbox(fail=lambda got, deliveries: ValueError("iban DE02120300000000202051"))
    consumers.start(bus.consume(TOPIC, GROUP, inbox, max_deliveries=1))
    await bus.publish(message(1))
    (dead,) = await eventually(lambda: bus.dead_letters(TOPIC, GROUP, 10))
    assert dead.headers[DEAD_REASON] == "ValueError"


async def test_dead_letters_are_limited_and_come_oldest_first(bus, consumers, eventually):
    inbox = Inbox(fail=lambda got, deliveries: ValueError())
    consumers.start(bus.consume(TOPIC, GROUP, inbox, max_deliveries=1, concurrency=1))
    for number in range(4):
        await bus.publish(message(number))

    async def all_dead() -> bool:
        return len(await bus.dead_letters(TOPIC, GROUP, 10)) == 4

    await eventually(all_dead)

    async def oldest() -> list[str]:
        return [dead.id for dead in await bus.dead_letters(TOPIC, GROUP, 2)]

    assert await eventually(oldest) == ["m0", "m1"]


async def test_replayed_dead_letters_go_to_their_group_alone_and_count_from_one(bus, consumers, eventually):
    healthy = False
    inbox = Inbox(fail=lambda got, deliveries: None if healthy else ValueError())
    auditors = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox, max_deliveries=1))
    consumers.start(bus.consume(TOPIC, "audit", auditors))
    await eventually(lambda: groups_exist(bus, inbox, auditors))
    for number in range(3):
        await bus.publish(message(number))
    expected = {"m0", "m1", "m2"}

    async def all_dead() -> bool:
        return expected <= {dead.id for dead in await bus.dead_letters(TOPIC, GROUP, 100)}

    await eventually(all_dead)
    await eventually(lambda: expected <= set(auditors.ids))
    healthy = True
    inbox.seen.clear()
    auditors.seen.clear()
    assert await bus.replay_dead(TOPIC, GROUP) >= 3
    await eventually(lambda: expected <= set(inbox.ids))
    assert {deliveries for _, deliveries in inbox.seen} == {1}
    assert {frozenset(got.headers) for got, _ in inbox.seen} == {frozenset({"traceparent"})}
    assert await bus.dead_letters(TOPIC, GROUP, 10) == []
    await bus.publish(message("last"))
    await eventually(lambda: "mlast" in auditors.ids)
    assert auditors.ids == ["mlast"]


async def start_process(bus_url: str, namespace: str, *, max_deliveries: int = 5) -> asyncio.subprocess.Process:
    program = str(Path(__file__).with_name("consumer_process.py"))
    return await asyncio.create_subprocess_exec(
        sys.executable, program, bus_url, namespace, str(max_deliveries), stdout=asyncio.subprocess.PIPE
    )


async def kill_after_its_delivery(process: asyncio.subprocess.Process) -> str:
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        return line.decode().strip()
    finally:
        process.kill()
        await process.communicate()


async def test_message_of_a_killed_consumer_goes_to_another(bus, bus_url, namespace, consumers, eventually):
    process = await start_process(bus_url, namespace)
    await bus.publish(message(1))
    assert await kill_after_its_delivery(process) == "m1 1"
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await eventually(lambda: inbox.seen, timeout=40)
    assert inbox.seen == [(message(1), 2)]


async def test_message_of_a_frozen_consumer_goes_to_another_and_stays_there(
    bus, bus_url, namespace, consumers, eventually
):
    process = await start_process(bus_url, namespace)
    try:
        await bus.publish(message(1))
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"m1 1\n"
        process.send_signal(signal.SIGSTOP)
        inbox = Inbox()
        consumers.start(bus.consume(TOPIC, GROUP, inbox, concurrency=1))
        await eventually(lambda: inbox.seen, timeout=100)
        assert inbox.seen == [(message(1), 2)]
        process.send_signal(signal.SIGCONT)
        # The one that woke up takes part again, and what was handled meanwhile stays handled.
        printed = asyncio.create_task(process.stdout.readline())

        async def takes_part() -> bool:
            await bus.publish(message(len(inbox.seen) + 1))
            return printed.done()

        await eventually(takes_part, timeout=30)
        assert printed.result() not in (b"", b"m1 1\n")
        assert inbox.ids.count("m1") == 1
    finally:
        process.kill()
        await process.communicate()


async def test_message_that_kills_its_consumers_ends_among_the_dead_letters(
    bus, bus_url, namespace, consumers, eventually
):
    process = await start_process(bus_url, namespace, max_deliveries=1)
    await bus.publish(message(1))
    await kill_after_its_delivery(process)
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox, max_deliveries=1))
    (dead,) = await eventually(lambda: bus.dead_letters(TOPIC, GROUP, 10), timeout=40)
    assert dead.headers[DEAD_REASON].startswith("CONSUMER_LOST")
    assert dead.headers[DEAD_DELIVERIES] == "1"
    assert inbox.seen == []


async def publish_foreign(url: str, namespace: str) -> None:
    """Puts something where messages are expected that no publisher of the bus has written."""
    if url.startswith("redis"):
        async with Redis.from_url(url) as client:
            await client.xadd(f"{namespace}:{TOPIC}", {"greeting": "hello"})
        return
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(f"{namespace}.{TOPIC}")
        await exchange.publish(aio_pika.Message(b"hello"), "")


async def test_what_no_publisher_of_the_bus_has_written_ends_among_the_dead_letters_and_stops_nobody(
    bus, bus_url, namespace, consumers, eventually
):
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await eventually(lambda: groups_exist(bus, inbox))
    await publish_foreign(bus_url, namespace)
    await bus.publish(message(1))
    (dead,) = await eventually(lambda: bus.dead_letters(TOPIC, GROUP, 10))
    assert dead.headers[DEAD_REASON].startswith("MALFORMED")
    await eventually(lambda: "m1" in inbox.ids)
    assert set(inbox.ids) == {"mwarm-up", "m1"}


async def test_stopping_consumer_lets_its_handler_finish_and_takes_no_more(new_bus, consumers, eventually):
    bus, other = await new_bus(), await new_bus()
    warm, started, finish, finished = Inbox(), asyncio.Event(), asyncio.Event(), []

    async def handle(got: Message, deliveries: int) -> None:
        await warm(got, deliveries)
        if got.id == "mwarm-up":
            return
        started.set()
        await finish.wait()
        finished.append(got.id)

    running = consumers.start(bus.consume(TOPIC, GROUP, handle, concurrency=1))
    # What was published before the group existed comes from another queue, beside what the group's own holds.
    await eventually(lambda: groups_exist(bus, warm))
    await bus.publish(message(1))
    await asyncio.wait_for(started.wait(), 10)
    running.cancel()
    await bus.publish(message(2))
    finish.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert finished == ["m1"]
    inbox = Inbox()
    consumers.start(other.consume(TOPIC, GROUP, inbox))
    await eventually(lambda: "m2" in inbox.ids, timeout=20)
    assert [seen for seen in inbox.seen if seen[0].id != "mwarm-up"] == [(message(2), 1)]


async def test_handler_that_outlasts_the_stop_is_cut_off_and_its_message_redelivered(new_bus, consumers, eventually):
    bus, other = await new_bus(), await new_bus()
    started, cut_off = asyncio.Event(), []

    async def handle(got: Message, deliveries: int) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cut_off.append(got.id)
            raise

    running = consumers.start(bus.consume(TOPIC, GROUP, handle))
    await bus.publish(message(1))
    await asyncio.wait_for(started.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cut_off == ["m1"]
    inbox = Inbox()
    consumers.start(other.consume(TOPIC, GROUP, inbox))
    await eventually(lambda: inbox.seen, timeout=20)
    assert inbox.seen == [(message(1), 2)]


async def test_body_of_one_mebibyte_arrives_unchanged(bus, consumers, eventually):
    body = bytes(range(256)) * 4096
    inbox = Inbox()
    consumers.start(bus.consume(TOPIC, GROUP, inbox))
    await bus.publish(message(1, body))
    await eventually(lambda: inbox.seen)
    assert inbox.seen[0][0].body == body


async def test_body_over_the_limit_is_refused_with_its_size(bus):
    with pytest.raises(MessageTooLarge, match="exceeds 4194304") as refused:
        await bus.publish(message(1, bytes(MAX_BODY_BYTES + 1)))
    assert refused.value.reason == "MESSAGE_TOO_LARGE"
    assert refused.value.metadata == {"limit_bytes": "4194304", "actual_bytes": "4194305"}


@pytest.mark.parametrize("topic", ["", "run wakeup", "run.", "a" * 101, "run.*", "run#wakeup"])
async def test_topic_that_is_no_dotted_name_is_refused(bus, topic):
    with pytest.raises(ValueError, match="topic"):
        await bus.publish(Message("m1", topic, b""))


async def test_namespaces_share_nothing(new_bus, namespace, consumers, eventually):
    ours, theirs = await new_bus(), await new_bus(f"{namespace}other")
    inbox, foreign = Inbox(), Inbox()
    consumers.start(ours.consume(TOPIC, GROUP, inbox))
    consumers.start(theirs.consume(TOPIC, GROUP, foreign))
    await ours.publish(message("ours"))
    await theirs.publish(message("theirs"))
    await eventually(lambda: inbox.seen and foreign.seen)
    assert (inbox.ids, foreign.ids) == (["mours"], ["mtheirs"])
    async with ours.subscribe("run.run_1") as heard, theirs.subscribe("run.run_1") as heard_there:
        await theirs.broadcast("run.run_1", b"theirs")
        await ours.broadcast("run.run_1", b"ours")
        assert await asyncio.wait_for(anext(heard), 10) == b"ours"
        assert await asyncio.wait_for(anext(heard_there), 10) == b"theirs"


async def test_broadcast_reaches_all_subscribers_in_order(new_bus):
    sender, one, two = await new_bus(), await new_bus(), await new_bus()
    async with one.subscribe("run.a") as first, one.subscribe("run.a") as second, two.subscribe("run.a") as third:
        for number in range(20):
            await sender.broadcast("run.a", str(number).encode())
        for heard in (first, second, third):
            assert [await asyncio.wait_for(anext(heard), 10) for _ in range(20)] == [
                str(number).encode() for number in range(20)
            ]


async def test_broadcast_is_heard_only_on_its_channel_and_only_while_subscribed(new_bus):
    sender, listener = await new_bus(), await new_bus()
    await sender.broadcast("run.a", b"too early")
    async with listener.subscribe("run.a") as heard:
        await sender.broadcast("run.b", b"elsewhere")
        await sender.broadcast("run.a", b"first")
        assert await asyncio.wait_for(anext(heard), 10) == b"first"
    await sender.broadcast("run.a", b"too late")
    async with listener.subscribe("run.a") as heard:
        await sender.broadcast("run.a", b"second")
        assert await asyncio.wait_for(anext(heard), 10) == b"second"


async def test_closing_the_bus_ends_its_subscriptions(new_bus):
    listener = await new_bus()
    async with listener.subscribe("run.a") as heard:
        reading = asyncio.create_task(anext(heard, None))
        await listener.close()
        assert await asyncio.wait_for(reading, 10) is None


async def test_ping_succeeds_while_the_broker_is_there(bus):
    await bus.ping()
