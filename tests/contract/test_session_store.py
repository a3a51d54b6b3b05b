"""Sessions over Valkey and over Redis: the scripts that change them are the same on both."""

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis
from slipway_chassis.idempotency import IdempotencyKeyReused
from slipway_memory.errors import SessionFull, SessionNotFound, SessionStoreUnavailable
from slipway_memory.session_store import RedisSessionStore
from slipway_memory.sessions import NewMessage, Session, SessionLimits

LIMITS = SessionLimits(message_characters=1000, messages=4, bytes=2000)


@pytest.fixture
async def store(cache_url: str) -> AsyncIterator[RedisSessionStore]:
    async with Redis.from_url(cache_url) as client:
        yield RedisSessionStore(client)


@pytest.fixture
def tenant() -> str:
    return f"t/{secrets.token_hex(4)}"


async def create(store: RedisSessionStore, tenant: str, *, request_id: str = "", fingerprint: str = "f") -> Session:
    return await store.create(
        tenant, "alice", f"session_{secrets.token_hex(8)}",
        labels={"case": "Ü-1"}, ttl=60, request_id=request_id, fingerprint=fingerprint,
    )  # fmt: skip


async def append(store, tenant, session, *contents: str, request_id: str = "", fingerprint: str = "f") -> Session:
    messages = [NewMessage("user", content) for content in contents]
    return await store.append(
        tenant, "alice", session.session_id, messages, limits=LIMITS, request_id=request_id, fingerprint=fingerprint
    )


async def test_what_is_appended_is_read_in_order_by_its_owner_alone(store, tenant):
    session = await create(store, tenant)
    assert (session.owner, session.labels, session.message_count) == ("alice", {"case": "Ü-1"}, 0)
    assert session.create_time < session.expire_time
    assert abs((session.create_time - datetime.now(UTC)).total_seconds()) < 60
    assert (await append(store, tenant, session, "one", "zwei ü")).message_count == 2
    await append(store, tenant, session, "three")
    read = await store.messages(tenant, "alice", session.session_id, after=1, limit=10)
    assert [(one.seq, one.role, one.content) for one in read] == [(2, "user", "zwei ü"), (3, "user", "three")]
    for stranger, where in (("bob", tenant), ("alice", f"{tenant}x")):
        assert await store.get(where, stranger, session.session_id) is None
        assert await store.messages(where, stranger, session.session_id, after=0, limit=10) is None
        assert not await store.delete(where, stranger, session.session_id)


async def test_a_repeated_request_changes_nothing_and_another_under_its_id_is_refused(store, tenant):
    first = await create(store, tenant, request_id="r1")
    assert (await create(store, tenant, request_id="r1")).session_id == first.session_id
    with pytest.raises(IdempotencyKeyReused):
        await create(store, tenant, request_id="r1", fingerprint="other")
    for _ in range(2):
        assert (await append(store, tenant, first, "once", request_id="a1")).message_count == 1
    with pytest.raises(IdempotencyKeyReused):
        await append(store, tenant, first, "else", request_id="a1", fingerprint="other")


async def test_a_session_takes_all_messages_of_a_request_or_none(store, tenant):
    session = await create(store, tenant)
    await append(store, tenant, session, "1", "2", "3")
    with pytest.raises(SessionFull):
        await append(store, tenant, session, "4", "5")
    with pytest.raises(SessionFull):
        await append(store, tenant, session, "x" * 3000)
    assert (await store.get(tenant, "alice", session.session_id)).message_count == 3


async def test_a_deleted_session_is_gone_with_its_messages(store, tenant):
    session = await create(store, tenant)
    await append(store, tenant, session, "1")
    assert await store.delete(tenant, "alice", session.session_id)
    assert not await store.delete(tenant, "alice", session.session_id)
    assert await store.messages(tenant, "alice", session.session_id, after=0, limit=10) is None
    with pytest.raises(SessionNotFound):
        await append(store, tenant, session, "2")


async def test_every_use_puts_the_end_off(store, tenant, cache_url, eventually):
    session = await create(store, tenant)
    await append(store, tenant, session, "1")

    async def used() -> bool:
        read = await store.get(tenant, "alice", session.session_id)
        return read is not None and read.expire_time > session.expire_time

    await eventually(used)
    async with Redis.from_url(cache_url) as client:
        keys = [key async for key in client.scan_iter(f"*{session.session_id}*")]
        assert len(keys) == 2
        # Both parts end together.
        for key in keys:
            assert 0 < await client.pttl(key) <= 60_000


async def test_a_store_that_is_away_is_told(free_port, tenant):
    async with Redis.from_url(f"redis://127.0.0.1:{free_port()}", socket_connect_timeout=1) as client:
        with pytest.raises(SessionStoreUnavailable) as away:
            await create(RedisSessionStore(client), tenant)
    assert away.value.retry_after == 1
