"""The pure parts of the bus."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slipway_chassis.bus import Message, open_bus
from slipway_chassis.bus.backoff import RETRY_DELAYS, retry_delay
from slipway_chassis.bus.fanout import MAILBOX_SIZE, Fanout
from slipway_chassis.bus.message import decode_headers, encode_headers, failure_reason
from slipway_chassis.bus.valkey_consumer import CLAIM_MS
from slipway_chassis.bus.valkey_entries import decode_entry, encode_entry
from slipway_chassis.errors import NotFound

texts = st.text(st.characters(exclude_categories=["Cs"]))
messages = st.builds(
    Message,
    id=texts,
    topic=texts,
    body=st.binary(),
    tenant=texts,
    headers=st.dictionaries(texts.filter(lambda name: not name.startswith("slipway-")), texts),
)


@given(messages)
def test_stream_entry_gives_back_the_message(message: Message) -> None:
    assert decode_entry(encode_entry(message)) == message


def test_headers_of_the_bus_are_not_carried_from_outside() -> None:
    assert decode_headers(encode_headers({"traceparent": "00", "slipway-dead-reason": "forged"})) == {
        "traceparent": "00"
    }


def test_retry_delays_grow_to_a_last_one_that_a_lease_can_hold() -> None:
    delays = [retry_delay(deliveries) for deliveries in range(1, 20)]
    assert delays == sorted(delays)
    assert delays[0] == RETRY_DELAYS[0]
    assert delays[-1] == RETRY_DELAYS[-1]
    assert delays[-1] * 1000 <= CLAIM_MS


def test_reason_names_public_errors_in_full_and_others_by_type() -> None:
    assert failure_reason(NotFound("no run run_1")) == "NOT_FOUND: no run run_1"
    assert failure_reason(KeyError("secret")) == "KeyError"


@pytest.mark.parametrize("url", ["kafka://host", "host:6379", ""])
async def test_url_of_an_unknown_broker_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="bus URL"):
        await open_bus(url)


async def test_namespace_that_is_no_name_is_refused() -> None:
    with pytest.raises(ValueError, match="namespace"):
        await open_bus("redis://localhost", namespace="a b")


class Recorder:
    """A broker of which only subscriptions are seen."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def attach(self, channel: str) -> None:
        self.calls.append(f"attach {channel}")

    async def detach(self, channel: str) -> None:
        self.calls.append(f"detach {channel}")


async def test_subscribers_of_a_channel_share_one_subscription_at_the_broker() -> None:
    broker = Recorder()
    fanout = Fanout(broker.attach, broker.detach)
    async with fanout.subscribe("a") as first:
        async with fanout.subscribe("a") as second:
            fanout.deliver("a", b"both")
            assert [await anext(first), await anext(second)] == [b"both", b"both"]
        assert broker.calls == ["attach a"]
    assert broker.calls == ["attach a", "detach a"]
    assert fanout.channels == frozenset()


async def test_failed_subscription_leaves_nothing_behind() -> None:
    async def refuse(channel: str) -> None:
        raise TimeoutError

    fanout = Fanout(refuse, refuse)
    with pytest.raises(TimeoutError):
        async with fanout.subscribe("a"):
            pass
    assert fanout.channels == frozenset()


async def test_slow_reader_loses_the_oldest_first() -> None:
    broker = Recorder()
    fanout = Fanout(broker.attach, broker.detach)
    async with fanout.subscribe("a") as heard:
        for number in range(MAILBOX_SIZE + 2):
            fanout.deliver("a", str(number).encode())
        assert await anext(heard) == b"2"
        fanout.close()
        rest = [data async for data in heard]
        assert rest[-1] == str(MAILBOX_SIZE + 1).encode()


async def test_reader_waits_for_the_next_message() -> None:
    broker = Recorder()
    fanout = Fanout(broker.attach, broker.detach)
    async with fanout.subscribe("a") as heard:
        reading = asyncio.create_task(anext(heard))
        await asyncio.sleep(0)
        fanout.deliver("a", b"now")
        assert await reading == b"now"
