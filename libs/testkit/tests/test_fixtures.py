import time
from pathlib import Path

import asyncpg
import jwt
import pytest
from redis.asyncio import Redis


async def test_a_fresh_database_is_empty_and_offers_pgvector(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        await connection.execute("CREATE EXTENSION vector")
        assert await connection.fetchval("SELECT '[1,2]'::vector <-> '[1,3]'::vector") == 1
    finally:
        await connection.close()


async def test_debian_postgres_answers(debian_postgres_url: str) -> None:
    connection = await asyncpg.connect(debian_postgres_url)
    try:
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


@pytest.mark.parametrize("fixture", ["valkey_url", "redis_url"])
async def test_both_kinds_of_redis_answer(fixture: str, request: pytest.FixtureRequest) -> None:
    async with Redis.from_url(request.getfixturevalue(fixture)) as client:
        assert await client.ping()


async def test_rabbitmq_accepts_a_client(rabbitmq_url: str) -> None:
    import aio_pika

    async with await aio_pika.connect(rabbitmq_url) as connection:
        assert not connection.is_closed


def test_signed_tokens_verify_against_the_published_keys_also_after_a_rotation(signing) -> None:
    before = signing.token("bob", roles=["reviewer"])
    signing.rotate()
    keys = jwt.PyJWKSet.from_json(signing.jwks_file.read_text())
    for token in (before, signing.token("bob", roles=["reviewer"], act="refund-desk@3")):
        key = keys[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(token, key, ["EdDSA"], audience="slipway-internal", issuer="slipway-gateway")
        assert (claims["sub"], claims["roles"]) == ("bob", ["reviewer"])


async def test_eventually_returns_the_value_and_gives_up_in_time(eventually) -> None:
    values = iter([None, 0, "ready"])
    assert await eventually(lambda: next(values), interval=0) == "ready"
    started = time.monotonic()
    with pytest.raises(AssertionError, match="not met within"):
        await eventually(lambda: False, timeout=0.1)
    assert time.monotonic() - started < 5


def test_policies_are_the_repositorys(policy_dir: Path) -> None:
    assert policy_dir.parts[-2:] == ("k8s", "policies")
