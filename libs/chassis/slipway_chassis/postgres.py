"""PostgreSQL: pool, transactions, migrations, and which of its errors mean that it is away."""

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from slipway_chassis.errors import Aborted, SlipwayError, Unavailable
from slipway_chassis.logs import get_logger
from slipway_chassis.tls import TlsInvalid

ChassisTable = Literal["outbox", "idempotency", "effects", "subject_keys", "inbox"]

_log = get_logger(__name__)
# Any number will do, as long as nothing else in the database locks it.
_MIGRATION_LOCK = 0x51199A7
_AWAY = (
    asyncpg.PostgresConnectionError,
    # It is short of connections, disk or memory.
    asyncpg.InsufficientResourcesError,
    # It starts, stops or has crashed; an operator cancelled the statement or bounded its time; the process was frozen
    # for so long that its transaction was ended.
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # Its disk fails.
    asyncpg.PostgresSystemError,
    # It answers, and takes nothing: a standby after a failover, or a primary that was told so.
    asyncpg.ReadOnlySQLTransactionError,
    # What asyncpg says to a query between the server's last words and the end of the connection.
    asyncpg.InternalClientError,
)
_NOT_NOW = (
    *_AWAY,
    # Of a process that was let in when it started: its role, password or database are being changed.
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    # Somebody else holds a table for longer than the server lets anybody wait.
    asyncpg.LockNotAvailableError,
)
_LOST_RACE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


class StoreUnavailable(Unavailable):
    """The database is away."""

    reason = "STORE_UNAVAILABLE"


class WriteConflict(Aborted):
    """A concurrent transaction won."""

    reason = "WRITE_CONFLICT"


def as_domain_error(error: BaseException) -> SlipwayError | None:
    """What a database error means to a caller, or None if it is a bug (or no database error at all)."""
    # asyncpg raises InterfaceError for a connection that was lost, but for misuse as well; only the text tells.
    lost = isinstance(error, asyncpg.InterfaceError) and "clos" in str(error)
    if lost or isinstance(error, _NOT_NOW):
        return StoreUnavailable("the database is unavailable", retry_after=1)
    if isinstance(error, _LOST_RACE):
        return WriteConflict("a concurrent change won; try again")
    return None


class _Pool(asyncpg.Pool):
    """A pool whose own queries raise what `transaction` and `connection` raise: not each caller must think of it."""

    async def fetch(self, *arguments: Any, **options: Any) -> list[Any]:
        with domain_errors():
            return await super().fetch(*arguments, **options)

    async def fetchrow(self, *arguments: Any, **options: Any) -> Any:
        with domain_errors():
            return await super().fetchrow(*arguments, **options)

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:
        with domain_errors():
            return await super().fetchval(*arguments, **options)

    async def execute(self, *arguments: Any, **options: Any) -> str:
        with domain_errors():
            return await super().execute(*arguments, **options)


async def open_pool(url: str, *, min_size: int = 1, max_size: int = 10, patience: float = 30) -> asyncpg.Pool:
    """A connection pool. A database that is still starting is waited for, ``patience`` seconds at most.

    Raises StoreUnavailable; TlsInvalid when TLS is what is wrong.
    """
    _check_files(url)
    give_up = time.monotonic() + patience
    while True:
        try:
            return await _Pool(
                url,
                min_size=min_size,
                max_size=max_size,
                max_queries=50_000,
                loop=None,
                connection_class=asyncpg.Connection,
                record_class=asyncpg.Record,
                timeout=10,
                command_timeout=60,
                max_inactive_connection_lifetime=60,
                connect=_connect,
                reset=_nothing_to_reset,
                server_settings={
                    "application_name": "slipway",
                    # Queries are short; compiling them would cost more than running them.
                    "jit": "off",
                    # A frozen process must not hold its locks for ever.
                    "idle_in_transaction_session_timeout": "60s",
                },
            )
        except (StoreUnavailable, *_AWAY) as error:
            if refused := _tls_refused(error.__cause__ or error):
                raise TlsInvalid(f"DATABASE_URL: {refused}") from error
            if time.monotonic() > give_up:
                raise StoreUnavailable("the database is unavailable") from error
            _log.warning("postgres.waiting", error=type(error).__name__)
            await asyncio.sleep(0.5)


def _check_files(url: str) -> None:
    """Files that the URL names for TLS are there. Raises TlsInvalid."""
    for name, value in parse_qsl(urlsplit(url).query):
        if name in ("sslrootcert", "sslcert", "sslkey") and not Path(value).is_file():
            raise TlsInvalid(f"DATABASE_URL: {name} names {value}, which is no file that can be read")


def _tls_refused(error: BaseException) -> str:
    """Why TLS with the database will not work, however long one waits; empty if that is not what is wrong."""
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "it demands TLS (sslmode), which the server does not have: turn `ssl` on there"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted ({error.verify_message}): sslrootcert names its authority"
    if isinstance(error, ssl.SSLError) and error.reason == "NO_CERTIFICATE_OR_CRL_FOUND":
        return "sslrootcert holds no certificate in PEM"
    return ""


async def _connect(*arguments: Any, **options: Any) -> asyncpg.Connection:
    """How the pool connects, whoever asked for the connection: a server that cannot be reached is told as away."""
    try:
        return await asyncpg.connect(*arguments, **options)
    except (OSError, TimeoutError) as error:
        raise StoreUnavailable("the database is unavailable", retry_after=1) from error


async def _nothing_to_reset(_connection: object) -> None:
    """The pool itself ends what transaction is open. Nobody sets anything else for a session: no locks, no settings.

    By default the pool would ask the server to forget all that: a round trip at the end of each use.
    """


async def close_pool(pool: asyncpg.Pool, *, patience: float = 5) -> None:
    """Closes a pool, within ``patience`` seconds.

    ``Pool.close`` waits until every connection was given back, and one that was lost with the database in the middle of
    its use may never be: what is left then is cut off, so that a process ends when it is told to.
    """
    try:
        async with asyncio.timeout(patience):
            await pool.close()
    except TimeoutError:
        _log.warning("postgres.pool_cut_off")


async def check_answers(pool: asyncpg.Pool) -> None:
    """Readiness: one round trip. Raises when the database is away, or takes no writes."""
    if await pool.fetchval("SHOW transaction_read_only") == "on":
        raise StoreUnavailable("the database takes no writes: is it a standby?", retry_after=1)


@contextmanager
def domain_errors() -> Generator[None]:
    """Turns what the database raises in the block into StoreUnavailable and WriteConflict.

    For blocks that do nothing but query: every OSError and TimeoutError is taken for the database's.
    """
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise StoreUnavailable("the database is unavailable", retry_after=1) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        known = as_domain_error(error)
        if known is None:
            raise
        raise known from error


@asynccontextmanager
async def connection(pool: asyncpg.Pool) -> AsyncGenerator[Any]:
    """A connection for a block of queries, each a transaction by itself: half the round trips of `transaction`.

    Raises StoreUnavailable if the database is away, WriteConflict if a concurrent transaction won.
    """
    with domain_errors():
        async with pool.acquire(timeout=10) as acquired:
            yield acquired


# Callbacks of the open transactions, by id of the connection; see `after_commit`.
_after_commit: dict[int, list[Callable[[], None]]] = {}


@asynccontextmanager
async def transaction(pool: asyncpg.Pool) -> AsyncGenerator[Any]:
    """A connection with an open transaction: commits at the end of the block, rolls back on an exception.

    Raises StoreUnavailable if the database is away, WriteConflict if a concurrent transaction won.
    """
    with domain_errors():
        connection = await pool.acquire(timeout=10)
    callbacks = _after_commit[id(connection)] = []
    try:
        async with connection.transaction():
            yield connection
    except (TimeoutError, ConnectionError) as error:
        # A statement that waited for too long, or a connection that broke: nothing else is waited for in a transaction.
        raise StoreUnavailable("the database is unavailable", retry_after=1) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        known = as_domain_error(error)
        if known is None:
            raise
        raise known from error
    finally:
        del _after_commit[id(connection)]
        await pool.release(connection)
    for callback in callbacks:
        callback()


def after_commit(connection: Any, callback: Callable[[], None]) -> bool:
    """Run ``callback`` once the ``transaction`` block of ``connection`` has committed.

    False if the connection's transaction was not opened by ``transaction``: nothing is run then.
    """
    callbacks = _after_commit.get(id(connection))
    if callbacks is None:
        return False
    callbacks.append(callback)
    return True


async def migrate(pool: asyncpg.Pool, package: str, *, chassis: Sequence[ChassisTable] = ()) -> None:
    """Bring the database up to date: the chassis tables named, then ``<package>/migrations/NNNN_*.sql`` in order.

    Each file runs once, all in one transaction under a lock, so that processes may start at the same time. A file that
    changed after it was applied is a RuntimeError: applied migrations are history.
    """
    scripts = _scripts(package, chassis)
    async with transaction(pool) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS slipway_migration ("
            "name text PRIMARY KEY, digest text NOT NULL, apply_time timestamptz NOT NULL DEFAULT now())"
        )
        applied = dict(await connection.fetch("SELECT name, digest FROM slipway_migration"))
        for name, text in scripts:
            checksum = _digest(text)
            if name not in applied:
                await connection.execute(text)
                await connection.execute("INSERT INTO slipway_migration (name, digest) VALUES ($1, $2)", name, checksum)
                _log.info("postgres.migrated", script=name)
            elif applied[name] != checksum:
                raise RuntimeError(f"migration {name} was changed after it had been applied")


def digests(package: str, *, chassis: Sequence[ChassisTable] = ()) -> dict[str, str]:
    """The scripts that `migrate` knows, with the SHA-256 that it records of each."""
    return {name: _digest(text) for name, text in _scripts(package, chassis)}


def _digest(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()


async def unapplied(pool: asyncpg.Pool, package: str, *, chassis: Sequence[ChassisTable] = ()) -> list[str]:
    """Names of the scripts that `migrate` would apply now. Changes nothing."""
    async with connection(pool) as reader:
        known = await reader.fetchval("SELECT to_regclass('slipway_migration') IS NOT NULL")
        applied = {row["name"] for row in await reader.fetch("SELECT name FROM slipway_migration")} if known else set()
    return [name for name, _ in _scripts(package, chassis) if name not in applied]


def _scripts(package: str, chassis: Sequence[ChassisTable]) -> list[tuple[str, str]]:
    """Names and texts, in the order in which they are applied."""
    own = files("slipway_chassis").joinpath("sql")
    scripts = [
        (f"chassis/{script.name}", script.read_text())
        for table in chassis
        for script in _sorted_sql(own)
        if script.name.startswith(f"{table}_")
    ]
    return scripts + [
        (script.name, script.read_text()) for script in _sorted_sql(files(package).joinpath("migrations"))
    ]


def _sorted_sql(folder: Traversable) -> list[Traversable]:
    if not folder.is_dir():
        return []
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
