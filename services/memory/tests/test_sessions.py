"""Sessions: conversations in Valkey, for their owner alone."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration
from redis.asyncio import Redis
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import ErrorKind, RemoteError
from slipway_testkit.servers import redis as redis_server
from slipway_testkit.waiting import eventually


async def refusal(call) -> RemoteError:
    with pytest.raises(RemoteError) as refused:
        await call
    return refused.value


async def create(client, **fields) -> pb.Session:
    return (await client.call(client.sessions.CreateSession, pb.CreateSessionRequest(**fields))).session


async def get(client, session_id: str) -> pb.Session:
    return (await client.call(client.sessions.GetSession, pb.GetSessionRequest(session_id=session_id))).session


async def append(client, session_id: str, *contents: str, role: str = "user", request_id: str = "") -> pb.Session:
    messages = [pb.SessionMessage(role=role, content=content) for content in contents]
    request = pb.AppendSessionMessagesRequest(session_id=session_id, messages=messages, request_id=request_id)
    return (await client.call(client.sessions.AppendSessionMessages, request)).session


async def page(client, session_id: str, size: int = 0, token: str = "") -> pb.ListSessionMessagesResponse:
    request = pb.ListSessionMessagesRequest(session_id=session_id, page_size=size, page_token=token)
    return await client.call(client.sessions.ListSessionMessages, request)


async def test_a_conversation_is_kept_in_order_and_read_in_pages(alice):
    session = await create(alice, labels={"channel": "chat"})
    assert (session.owner, dict(session.labels), session.message_count) == ("alice", {"channel": "chat"}, 0)
    await append(alice, session.session_id, *(f"message {n}" for n in range(1, 4)))
    changed = await append(alice, session.session_id, "an answer: naïve 🚲\nnew line", role="assistant")
    assert (changed.message_count, changed.create_time) == (4, session.create_time)
    first = await page(alice, session.session_id, 3)
    assert [(one.seq, one.role, one.content) for one in first.messages] == [
        (n, "user", f"message {n}") for n in range(1, 4)
    ]
    second = await page(alice, session.session_id, 3, first.next_page_token)
    assert [(one.seq, one.role, one.content) for one in second.messages] == [
        (4, "assistant", "an answer: naïve 🚲\nnew line")
    ]
    assert second.next_page_token == ""
    assert second.messages[0].time.seconds >= session.create_time.seconds


async def test_turns_appended_at_the_same_time_get_numbers_without_gap_or_double(alice):
    session = await create(alice)
    await asyncio.gather(*(append(alice, session.session_id, f"{n} a", f"{n} b") for n in range(40)))
    messages = (await page(alice, session.session_id, 200)).messages
    assert [one.seq for one in messages] == list(range(1, 81))
    for position in range(0, 80, 2):
        assert messages[position].content.replace(" a", " b") == messages[position + 1].content


async def test_a_session_is_its_owners_alone(alice):
    session = await create(alice)
    await append(alice, session.session_id, "secret")
    agent = alice.as_("alice", ["operator"], act="refund-desk@3")
    assert (await page(agent, session.session_id)).messages[0].content == "secret"
    for stranger in (
        alice.as_("bob", ["developer", "operator"]),
        alice.as_("dave", ["platform-admin"]),
        alice.as_("alice", ["developer"], tenant=f"{alice.tenant}x"),
    ):
        name = session.session_id
        delete = stranger.call(stranger.sessions.DeleteSession, pb.DeleteSessionRequest(session_id=name))
        for call in (get(stranger, name), page(stranger, name), append(stranger, name, "hi"), delete):
            error = await refusal(call)
            assert (error.kind, error.reason) == (ErrorKind.NOT_FOUND, "SESSION_NOT_FOUND")
    assert (await get(alice, session.session_id)).message_count == 1


async def test_a_deleted_session_is_gone(alice, valkey_url):
    session = await create(alice)
    await append(alice, session.session_id, "text")
    request = pb.DeleteSessionRequest(session_id=session.session_id)
    await alice.call(alice.sessions.DeleteSession, request)
    assert (await refusal(get(alice, session.session_id))).reason == "SESSION_NOT_FOUND"
    assert (await refusal(alice.call(alice.sessions.DeleteSession, request))).reason == "SESSION_NOT_FOUND"
    client = Redis.from_url(valkey_url)
    assert await client.keys(f"*{session.session_id}*") == []
    await client.aclose()


async def test_every_use_puts_a_sessions_end_off_and_without_use_it_ends(alice, valkey_url):
    session = await create(alice, ttl=Duration(seconds=3600))
    assert session.expire_time.seconds - session.create_time.seconds in (3599, 3600)
    await append(alice, session.session_id, "text")
    client = Redis.from_url(valkey_url)
    keys = await client.keys(f"slipway:memory:{alice.tenant}:*{session.session_id}*")
    assert len(keys) == 2
    for use in (
        get(alice, session.session_id),
        page(alice, session.session_id),
        append(alice, session.session_id, "x"),
    ):
        for key in keys:
            await client.expire(key, 60)
        await use
        assert [await client.ttl(key) > 3590 for key in keys] == [True, True]
    for key in keys:
        await client.pexpire(key, 1)

    async def ended():
        return not await client.exists(*keys)

    await eventually(ended)
    assert (await refusal(get(alice, session.session_id))).reason == "SESSION_NOT_FOUND"
    assert (await refusal(append(alice, session.session_id, "x"))).reason == "SESSION_NOT_FOUND"
    await client.aclose()


async def test_a_request_id_makes_a_change_happen_once(alice):
    session = await create(alice, labels={"a": "1"}, request_id="s-1")
    assert (await create(alice, labels={"a": "1"}, request_id="s-1")).session_id == session.session_id
    assert (await refusal(create(alice, labels={"a": "2"}, request_id="s-1"))).reason == "IDEMPOTENCY_KEY_REUSED"
    bob = alice.as_("bob", ["operator"])
    assert (await create(bob, labels={"a": "1"}, request_id="s-1")).session_id != session.session_id
    first = await append(alice, session.session_id, "one", request_id="m-1")
    await append(alice, session.session_id, "two", request_id="m-2")
    again = await append(alice, session.session_id, "one", request_id="m-1")
    assert (first.message_count, again.message_count) == (1, 1)
    assert (await refusal(append(alice, session.session_id, "x", request_id="m-1"))).reason == "IDEMPOTENCY_KEY_REUSED"
    assert [one.content for one in (await page(alice, session.session_id)).messages] == ["one", "two"]


async def test_limits_of_messages_and_sessions_hold_and_an_append_is_whole(
    start_memory, new_database, new_client, router
):
    memory = start_memory(new_database(), session_messages=3, session_bytes=1000, session_message_characters=600)
    alice = new_client(memory)
    session = await create(alice)
    error = await refusal(append(alice, session.session_id, "x" * 601))
    assert (error.kind, error.reason) == (ErrorKind.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    await append(alice, session.session_id, "a", "b")
    assert (await refusal(append(alice, session.session_id, "c", "d"))).reason == "SESSION_FULL"
    assert (await refusal(append(alice, session.session_id, "x" * 500, "x" * 500))).reason == "SESSION_FULL"
    assert (await append(alice, session.session_id, "c")).message_count == 3
    assert [one.content for one in (await page(alice, session.session_id)).messages] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"labels": {str(n): "" for n in range(17)}}, "labels"),
        ({"ttl": Duration(seconds=0, nanos=1)}, "ttl"),
        ({"ttl": Duration(seconds=91 * 86400)}, "ttl"),
    ],
    ids=str,
)
async def test_a_wrong_session_names_the_field(alice, fields, field):
    error = await refusal(create(alice, **fields))
    assert (error.kind, error.field) == (ErrorKind.INVALID_ARGUMENT, field)


async def test_a_wrong_turn_names_the_field(alice):
    session = await create(alice)
    assert (await refusal(append(alice, session.session_id))).field == "messages"
    assert (await refusal(append(alice, session.session_id, *"x" * 101))).field == "messages"
    assert (await refusal(append(alice, session.session_id, "x", role="robot"))).field == "messages[0].role"
    assert (await refusal(page(alice, session.session_id, token="bad"))).field == "page_token"


@pytest.mark.parametrize("session_id", ["", "*", "ses_1", "file_01jd0000000000000000000000"])
async def test_what_is_no_session_id_is_not_found(alice, session_id):
    assert (await refusal(get(alice, session_id))).reason == "SESSION_NOT_FOUND"


async def test_without_valkey_sessions_are_unavailable_and_everything_else_goes_on(
    start_memory, new_database, new_client, router
):
    with redis_server.valkey() as server:
        memory = start_memory(new_database(), redis_url=server.url, redis_timeout=0.5)
        alice = new_client(memory)
        session = await create(alice)
    error = await refusal(get(alice, session.session_id))
    assert (error.kind, error.reason) == (ErrorKind.UNAVAILABLE, "SESSION_STORE_UNAVAILABLE")
    assert (await refusal(create(alice))).reason == "SESSION_STORE_UNAVAILABLE"
    await alice.collection()
    await alice.add("The tariff is ten euro.")
    assert await alice.search("tariff")
