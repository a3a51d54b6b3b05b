"""Costs, token classes, cooldowns and framing: the parts that are pure."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slipway_router.chat import ToolCall
from slipway_router.cost import Price
from slipway_router.errors import MalformedToolCall, ProviderProtocol
from slipway_router.health import COOLDOWN_MOST, PROBE_SECONDS, Gate, LocalHealth
from slipway_router.output_checks import OutputChecks
from slipway_router.tokens import TokenCount, estimated_tokens, most_tokens
from slipway_router.wire.body import token_count
from slipway_router.wire.failures import failure_of_status, retry_after
from slipway_router.wire.sse import data_events
from slipway_router.wire.tool_calls import ToolCallAssembler

amounts = st.decimals(min_value=0, max_value=10**6, places=12, allow_nan=False, allow_infinity=False)
prices = st.builds(Price, amounts, amounts, amounts, amounts)
counts = st.integers(0, 10**12)
reported = st.integers(0, 250_000_000)
tokens = st.builds(TokenCount, counts, counts, counts, counts)


@given(prices, tokens)
def test_a_cost_is_the_exact_rational_sum_of_its_classes(price, count):
    exact = (
        sum(
            Fraction(amount) * number
            for amount, number in (
                (price.input, count.input),
                (price.cached_input, count.cached_input),
                (price.output, count.output),
                (price.reasoning, count.reasoning),
            )
        )
        / 1_000_000
    )
    assert Fraction(price.cost(count)) == exact


@given(prices, tokens, tokens)
def test_costs_add_up_however_a_call_is_split_into_attempts(price, one, other):
    assert price.cost(one) + price.cost(other) == pytest.approx(price.cost(one + other), rel=Decimal("1e-25"))


@given(prices, tokens)
def test_no_split_of_tokens_costs_more_than_the_bound(price, count):
    bound = price.most(count.input + count.cached_input, count.output + count.reasoning)
    assert price.cost(count) <= bound


@given(reported, reported, reported, reported)
def test_reported_usage_falls_into_disjoint_classes_that_add_up_again(fresh, cached, text, reasoning):
    usage = {
        "prompt_tokens": fresh + cached,
        "completion_tokens": text + reasoning,
        "total_tokens": fresh + cached + text + reasoning,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    assert token_count(usage) == TokenCount(fresh, cached, text, reasoning)


def test_reasoning_that_is_reported_beside_the_completion_is_counted_once():
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 22,
        "completion_tokens_details": {"reasoning_tokens": 7},
    }
    assert token_count(usage) == TokenCount(input=10, output=5, reasoning=7)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": "10", "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}},
        {"prompt_tokens": 1, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 9}},
    ],
)
def test_usage_that_does_not_add_up_counts_as_not_reported(usage):
    assert token_count(usage) is None


@given(st.lists(st.text(max_size=200), max_size=5))
def test_an_estimate_is_never_above_the_bound(texts):
    assert estimated_tokens(texts) <= most_tokens(texts)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_a_model_cools_down_after_three_failures_running_and_one_probe_decides():
    clock = Clock()
    health = LocalHealth(clock)
    for _ in range(2):
        health.failed("m", None)
    assert health.admit("m").gate is Gate.OPEN
    seconds = health.failed("m", None)
    assert health.admit("m").gate is Gate.CLOSED
    clock.now += seconds
    assert health.admit("m").gate is Gate.PROBE
    assert health.admit("m").gate is Gate.CLOSED
    assert health.failed("m", None) == 2 * seconds
    clock.now += 2 * seconds
    assert health.admit("m").gate is Gate.PROBE
    health.succeeded("m")
    assert health.admit("m").gate is Gate.OPEN
    assert health.failed("m", None) == 0


def test_a_success_between_failures_starts_the_count_again():
    health = LocalHealth(Clock())
    for _ in range(5):
        health.failed("m", None)
        health.failed("m", None)
        health.succeeded("m")
    assert health.admit("m").gate is Gate.OPEN


def test_a_longer_cooldown_is_never_shortened():
    clock = Clock()
    health = LocalHealth(clock)
    health.failed("m", 100.0)
    health.failed("m", 1.0)
    assert health.peek("m").retry_after == pytest.approx(100)


def test_a_probe_that_never_reports_is_given_up():
    clock = Clock()
    health = LocalHealth(clock)
    health.failed("m", 1.0)
    clock.now += 1
    assert health.admit("m").gate is Gate.PROBE
    clock.now += PROBE_SECONDS
    assert health.admit("m").gate is Gate.PROBE


@given(st.integers(1, 200))
def test_cooldowns_grow_to_a_limit(failures):
    health = LocalHealth(Clock())
    seconds = [health.failed("m", None) for _ in range(failures)]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= COOLDOWN_MOST


async def chunked(raw, sizes):
    position = 0
    for size in sizes:
        yield raw[position : position + size]
        position += size
    yield raw[position:]


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20).filter(bool), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(0, 9), max_size=60),
)
async def test_events_are_the_same_however_the_bytes_are_cut(payloads, newline, sizes):
    raw = "".join(f": comment{newline}event: x{newline}data: {p}{newline}{newline}" for p in payloads).encode()
    events = [event.decode() async for event in data_events(chunked(raw, sizes))]
    assert events == payloads


async def test_an_event_that_the_stream_cuts_off_is_dropped():
    raw = b"data: one\n\ndata: two\n"
    assert [event async for event in data_events(chunked(raw, []))] == [b"one"]


async def test_many_small_lines_cannot_grow_one_event_without_bound():
    async def endless():
        while True:
            yield b"data: " + b"x" * 1000 + b"\n"

    with pytest.raises(ProviderProtocol):
        async for _ in data_events(endless()):
            pass


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=4), st.integers(1, 9))
def test_tool_calls_come_out_whole_however_they_are_cut(arguments, size):
    text = json.dumps(arguments)
    calls = ToolCallAssembler(OutputChecks({"pay": None}))
    calls.add([{"index": 0, "id": "c1", "function": {"name": "pay", "arguments": ""}}])
    for position in range(0, len(text), size):
        calls.add([{"index": 0, "function": {"arguments": text[position : position + size]}}])
    assert calls.finish("tool_calls") == (ToolCall("c1", "pay", text),)


@pytest.mark.parametrize("arguments", ["{", "[]", "null", '"x"', "12", "{'a': 1}", "[" * 100_000])
def test_arguments_that_are_not_a_json_object_are_refused(arguments):
    calls = ToolCallAssembler(OutputChecks({"pay": None}))
    calls.add([{"index": 0, "id": "c1", "function": {"name": "pay", "arguments": arguments}}])
    with pytest.raises(MalformedToolCall):
        calls.finish("tool_calls")


@pytest.mark.parametrize(
    "fragments", [{}, "x", [1], [{"index": -1}], [{"index": 10**6}], [{"index": 0, "function": 3}]]
)
def test_fragments_of_a_foreign_form_are_refused(fragments):
    with pytest.raises(MalformedToolCall):
        ToolCallAssembler(OutputChecks({"pay": None})).add(fragments)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("30", 30), ("0.5", 0.5), ("", None), ("soon", None), ("-5", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_retry_after_is_read_in_both_forms(value, seconds):
    assert retry_after({"retry-after": value}) == seconds


@pytest.mark.parametrize(
    ("status", "reason", "retryable"),
    [
        (400, "PROVIDER_REJECTED", False),
        (401, "PROVIDER_AUTH", True),
        (403, "PROVIDER_AUTH", True),
        (404, "PROVIDER_UNAVAILABLE", True),
        (408, "PROVIDER_UNAVAILABLE", True),
        (409, "PROVIDER_UNAVAILABLE", True),
        (422, "PROVIDER_REJECTED", False),
        (429, "PROVIDER_RATE_LIMITED", True),
        (500, "PROVIDER_UNAVAILABLE", True),
        (529, "PROVIDER_UNAVAILABLE", True),
        (302, "PROVIDER_PROTOCOL", True),
    ],
)
def test_each_status_has_its_class(status, reason, retryable):
    failure = failure_of_status("p", status, {}, b"{}")
    assert (failure.reason, failure.retryable) == (reason, retryable)
