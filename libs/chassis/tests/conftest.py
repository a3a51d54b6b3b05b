"""Fixtures of the chassis' own tests."""

import base64
import dataclasses
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.postgres import migrate, open_pool

ALICE = Caller(
    subject="alice",
    tenant="acme",
    kind="user",
    roles=frozenset({"developer", "operator"}),
    groups=frozenset(),
    act=None,
    run_id=None,
    token_id="jti-1",
    expires_at=datetime.now(UTC) + timedelta(minutes=5),
)


@pytest.fixture
def caller() -> Callable[..., Caller]:
    """`caller(subject="bob", …)`: alice of acme, changed as named."""
    return lambda **changes: dataclasses.replace(ALICE, **changes)


@pytest.fixture
def data_key() -> str:
    """A data key as settings have it."""
    return base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool on a fresh database with all chassis tables."""
    async with await open_pool(database_url) as opened:
        await migrate(
            opened, "slipway_chassis", chassis=["outbox", "idempotency", "effects", "subject_keys", "inbox"]
        )
        yield opened


@pytest.fixture
def keys(pool: asyncpg.Pool, data_key: str) -> SubjectKeys:
    """Subject keys over `pool`."""
    return SubjectKeys(pool, data_key)
