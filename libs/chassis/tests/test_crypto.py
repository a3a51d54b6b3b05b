"""Encryption under a key per subject, and erasure."""

import asyncio
import base64
import os
import subprocess
import sys

import asyncpg
import pytest
from slipway_chassis import crypto
from slipway_chassis.crypto import SealBroken, SubjectErased, SubjectKeys
from slipway_chassis.postgres import transaction

TEXT = b"what alice wrote"


async def test_a_sealed_text_opens_for_its_subject_in_any_process(
    pool: asyncpg.Pool, keys: SubjectKeys, data_key: str
) -> None:
    sealed = await keys.encrypt(pool, "acme", "alice", TEXT)
    assert TEXT not in sealed
    assert await keys.decrypt(pool, "acme", "alice", sealed) == TEXT
    assert await SubjectKeys(pool, data_key).decrypt(pool, "acme", "alice", sealed) == TEXT
    assert await keys.encrypt(pool, "acme", "alice", TEXT) != sealed
    assert await keys.decrypt(pool, "acme", "alice", await keys.encrypt(pool, "acme", "alice", b"")) == b""


async def test_a_text_does_not_open_for_another_subject_or_tenant(pool: asyncpg.Pool, keys: SubjectKeys) -> None:
    sealed = await keys.encrypt(pool, "acme", "alice", TEXT)
    await keys.encrypt(pool, "acme", "bob", TEXT)
    await keys.encrypt(pool, "globex", "alice", TEXT)
    for tenant, subject in (("acme", "bob"), ("globex", "alice"), ("acme", "nobody")):
        with pytest.raises(SubjectErased):
            await keys.decrypt(pool, tenant, subject, sealed)


async def test_a_damaged_text_is_not_taken_for_an_erased_one(pool: asyncpg.Pool, keys: SubjectKeys) -> None:
    sealed = await keys.encrypt(pool, "acme", "alice", TEXT)
    for damaged in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"\x02" + sealed[1:], b"", TEXT):
        with pytest.raises(SealBroken):
            await keys.decrypt(pool, "acme", "alice", damaged)


async def test_another_data_key_opens_nothing(pool: asyncpg.Pool, keys: SubjectKeys) -> None:
    sealed = await keys.encrypt(pool, "acme", "alice", TEXT)
    other = SubjectKeys(pool, base64.b64encode(b"x" * 32).decode())
    with pytest.raises(SealBroken):
        await other.decrypt(pool, "acme", "alice", sealed)


async def test_a_key_in_the_table_cannot_be_moved_to_another_subject(pool: asyncpg.Pool, keys: SubjectKeys) -> None:
    await keys.encrypt(pool, "acme", "alice", TEXT)
    await pool.execute("UPDATE subject_key SET subject = 'mallory'")
    with pytest.raises(SealBroken):
        await keys.encrypt(pool, "acme", "mallory", TEXT)


@pytest.mark.parametrize("key", ["", "c2hvcnQ=", "not base64 at all"])
async def test_a_data_key_of_another_form_is_refused(pool: asyncpg.Pool, key: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - base64 raises a subclass of its own
        SubjectKeys(pool, key)


async def test_erasure_leaves_nothing_to_open_and_does_not_touch_others(pool: asyncpg.Pool, keys: SubjectKeys) -> None:
    sealed = await keys.encrypt(pool, "acme", "alice", TEXT)
    others = await keys.encrypt(pool, "acme", "bob", TEXT)
    assert await keys.erase(pool, "acme", "alice")
    assert not await keys.erase(pool, "acme", "alice")
    with pytest.raises(SubjectErased):
        await keys.decrypt(pool, "acme", "alice", sealed)
    assert await keys.decrypt(pool, "acme", "bob", others) == TEXT
    assert await pool.fetchval("SELECT count(*) FROM subject_key") == 1


async def test_a_subject_that_comes_back_gets_a_new_key_and_the_old_texts_stay_erased(
    pool: asyncpg.Pool, keys: SubjectKeys
) -> None:
    old = await keys.encrypt(pool, "acme", "alice", TEXT)
    await keys.erase(pool, "acme", "alice")
    new = await keys.encrypt(pool, "acme", "alice", b"new words")
    assert await keys.decrypt(pool, "acme", "alice", new) == b"new words"
    with pytest.raises(SubjectErased):
        await keys.decrypt(pool, "acme", "alice", old)


async def test_another_process_forgets_an_erased_key_in_bounded_time(
    pool: asyncpg.Pool, keys: SubjectKeys, data_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = SubjectKeys(pool, data_key)
    sealed = await keys.encrypt(pool, "acme", "alice", TEXT)
    assert await elsewhere.decrypt(pool, "acme", "alice", sealed) == TEXT
    await keys.erase(pool, "acme", "alice")
    now = crypto.time.monotonic()
    monkeypatch.setattr(crypto.time, "monotonic", lambda: now + crypto.CACHE_SECONDS + 1)
    with pytest.raises(SubjectErased):
        await elsewhere.decrypt(pool, "acme", "alice", sealed)


async def test_a_key_whose_transaction_rolled_back_is_never_used_again(
    pool: asyncpg.Pool, keys: SubjectKeys, data_key: str
) -> None:
    async def fails() -> None:
        async with transaction(pool) as conn:
            await keys.encrypt(conn, "acme", "alice", TEXT)
            # Seen again in its own transaction, also from inside a savepoint: still not committed.
            await keys.encrypt(conn, "acme", "alice", TEXT)
            async with conn.transaction():
                await keys.encrypt(conn, "acme", "alice", TEXT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    sealed = await keys.encrypt(pool, "acme", "alice", TEXT)
    assert await SubjectKeys(pool, data_key).decrypt(pool, "acme", "alice", sealed) == TEXT


async def test_a_committed_key_is_looked_up_once(pool: asyncpg.Pool, keys: SubjectKeys) -> None:
    async with transaction(pool) as conn:
        await keys.encrypt(conn, "acme", "alice", TEXT)
    await keys.encrypt(pool, "acme", "alice", TEXT)

    class NoDatabase:
        def __getattr__(self, name: str) -> None:
            raise AssertionError("the key should be cached")

    await keys.encrypt(NoDatabase(), "acme", "alice", TEXT)


async def test_two_processes_that_meet_a_new_subject_agree_on_one_key(
    pool: asyncpg.Pool, keys: SubjectKeys, data_key: str
) -> None:
    many = [keys, *(SubjectKeys(pool, data_key) for _ in range(7))]
    sealed = await asyncio.gather(*(each.encrypt(pool, "acme", "alice", TEXT) for each in many))
    assert [await keys.decrypt(pool, "acme", "alice", text) for text in sealed] == [TEXT] * 8


async def test_a_data_key_is_rotated_while_processes_seal_and_open(
    pool: asyncpg.Pool, data_key: str, database_url: str
) -> None:
    """Processes are replaced one after the other: at every moment old and new ones open what any of them seals."""
    old, new = data_key, base64.b64encode(b"n" * 32).decode()
    sealed: dict[str, bytes] = {}

    async def traffic(*processes: str) -> None:
        for number, setting in enumerate(processes):
            subject = f"subject-{len(sealed)}-{number}"
            sealed[subject] = await SubjectKeys(pool, setting).encrypt(pool, "acme", subject, TEXT)
        for subject, text in sealed.items():
            for setting in processes:
                assert await SubjectKeys(pool, setting).decrypt(pool, "acme", subject, text) == TEXT

    both, turned = f"{old},{new}", f"{new},{old}"
    await traffic(old)
    await traffic(old, both)
    await traffic(both, turned)
    environment = {**os.environ, "SLIPWAY_TOOLS_DATABASE_URL": database_url, "SLIPWAY_TOOLS_DATA_KEY": turned}
    command = [sys.executable, "-m", "slipway_chassis.rewrap", "tools"]
    ended = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "4 of 5 keys of tools wrapped under the first data key\n"), ended
    await traffic(turned, new)
    assert await SubjectKeys(pool, new).rewrap() == (0, len(sealed))
    with pytest.raises(SealBroken):
        await SubjectKeys(pool, old).rewrap()


async def test_a_login_of_a_database_is_replaced_while_both_are_used(database_url: str, pool: asyncpg.Pool) -> None:
    """The password of one login cannot be two, but there can be two logins that act as one owner."""
    owner = f"owner_{os.urandom(4).hex()}"
    await pool.execute(f"CREATE ROLE {owner}")
    schema = await pool.fetchval("SELECT current_database()")
    await pool.execute(
        f'GRANT CREATE, CONNECT ON DATABASE "{schema}" TO {owner}; GRANT ALL ON SCHEMA public TO {owner}'
    )
    logins = [f"{owner}_{name}" for name in ("a", "b")]
    try:
        for login in logins:
            await pool.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{login}' IN ROLE {owner}")
            await pool.execute(f"ALTER ROLE {login} SET role = {owner}")
        first, second = [await asyncpg.connect(database_url, user=login, password=login) for login in logins]
        await first.execute("CREATE TABLE mine (n int)")
        await second.execute("INSERT INTO mine VALUES (1); ALTER TABLE mine ADD COLUMN m int")
        await pool.execute(f"ALTER ROLE {logins[0]} NOLOGIN")
        # What is open stays; nobody comes in by the old login any more.
        await first.execute("INSERT INTO mine VALUES (2)")
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(database_url, user=logins[0], password=logins[0])
        assert await second.fetchval("SELECT count(*) FROM mine") == 2
        assert await second.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = 'mine'") == owner
        for connection in (first, second):
            await connection.close()
    finally:
        await pool.execute("DROP TABLE IF EXISTS mine")
        for role in (*logins, owner):
            await pool.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
