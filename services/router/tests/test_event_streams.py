"""Server-sent events as providers write them, however they are cut into chunks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slipway_router.wire.sse import data_events

EVENTS = [b'{"one": 1}', '{"zw\u00f6lf": 12}'.encode(), b"[DONE]"]


async def events(*chunks):
    async def stream():
        for chunk in chunks:
            yield chunk

    return [event async for event in data_events(stream())]


def written(line_end, *, mark=b""):
    lines = [b": hello", b""]
    for event in EVENTS:
        lines += [b"event: message", b"data: " + event, b""]
    return mark + line_end.join([*lines, b""])


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
async def test_each_line_end_and_a_byte_order_mark_are_understood(line_end, mark):
    assert await events(written(line_end, mark=mark)) == EVENTS


async def test_a_byte_order_mark_does_not_cost_the_first_event():
    assert await events(b"\xef\xbb\xbfdata: one\n\ndata: two\n\n") == [b"one", b"two"]


@given(
    line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)
async def test_it_does_not_matter_where_chunks_are_cut(line_end, mark, cuts):
    whole = written(line_end, mark=mark)
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    assert await events(*(whole[a:b] for a, b in pairwise(places))) == EVENTS


async def test_an_event_comes_as_soon_as_its_empty_line_has_ended():
    asked = 0

    async def stream():
        nonlocal asked
        for chunk in (b"data: one\r\r", b"data: two\r\r"):
            asked += 1
            yield chunk

    reading = data_events(stream())
    assert [(await anext(reading), asked), (await anext(reading), asked)] == [(b"one", 1), (b"two", 2)]


async def test_lines_of_data_are_one_event_and_a_stream_that_is_cut_off_has_no_last_one():
    assert await events(b'data: {"a":\ndata:1}\n\nid: 7\ndata: half') == [b'{"a":\n1}']
