"""Logins for MCP servers in PostgreSQL; tokens and verifiers come and go sealed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

# How long before its end an access token is renewed: the call that it is sent with has to arrive as well.
_MARGIN = "interval '30 seconds'"
_FIELDS = f"""server, subject, connection_digest, issuer, authorizer, sealed, scopes, missing_scopes, expire_time,
    refreshable, generation, expire_time < now() + {_MARGIN} AS due, expire_time < now() AS ended"""
_SELECT = f"SELECT {_FIELDS} FROM mcp_authorization WHERE tenant = $1"  # noqa: S608 - the constant above
_DELETE = "DELETE FROM mcp_authorization WHERE tenant = $1 AND server = $2"
_RETURNING = f"RETURNING {_FIELDS}"
_PUT = """
INSERT INTO mcp_authorization AS a
    (tenant, server, subject, connection_digest, issuer, authorizer, sealed, scopes, expire_time, refreshable)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(secs => $9), $10)
ON CONFLICT (tenant, server, subject) DO UPDATE SET connection_digest = excluded.connection_digest,
    issuer = excluded.issuer, authorizer = excluded.authorizer, sealed = excluded.sealed, scopes = excluded.scopes,
    missing_scopes = '{}', expire_time = excluded.expire_time, refreshable = excluded.refreshable,
    generation = a.generation + 1, refresh_until = NULL, create_time = now()
"""
# A replica that dies while it refreshes is waited for no longer than this.
_CLAIM = """
UPDATE mcp_authorization SET refresh_until = now() + make_interval(secs => $5)
WHERE tenant = $1 AND server = $2 AND subject = $3 AND generation = $4 AND sealed IS NOT NULL
    AND (refresh_until IS NULL OR refresh_until < now())
RETURNING true
"""
_RENEW = """
UPDATE mcp_authorization SET sealed = $5, scopes = $6, expire_time = now() + make_interval(secs => $7),
    refreshable = $8, generation = generation + 1, refresh_until = NULL
WHERE tenant = $1 AND server = $2 AND subject = $3 AND generation = $4
"""
_REFUSE = """
UPDATE mcp_authorization SET sealed = NULL, refreshable = false, generation = generation + 1, refresh_until = NULL
WHERE tenant = $1 AND server = $2 AND subject = $3 AND generation = $4 AND sealed IS NOT NULL
RETURNING true
"""
_MISS = """
UPDATE mcp_authorization SET missing_scopes = (
    SELECT (array_agg(DISTINCT scope ORDER BY scope))[1:32] FROM unnest(missing_scopes || $5::text[]) AS scope)
WHERE tenant = $1 AND server = $2 AND subject = $3 AND generation = $4
"""


@dataclass(frozen=True)
class Key:
    """Whose authorization for which server; `subject` is empty for the tenant's."""

    tenant: str
    server: str
    subject: str

    def values(self) -> tuple[str, str, str]:
        """As the queries take them."""
        return self.tenant, self.server, self.subject


@dataclass(frozen=True)
class Authorization:
    """A login as it is kept. `due`: the access token ends soon; `ended`: it has."""

    key: Key
    connection_digest: str
    issuer: str
    authorizer: str
    sealed: bytes | None
    scopes: tuple[str, ...]
    missing_scopes: tuple[str, ...]
    expire_time: datetime | None
    refreshable: bool
    generation: int
    due: bool
    ended: bool


@dataclass(frozen=True)
class Lifetime:
    """What is told of new tokens. `seconds` of the access token's life; None: the server tells none."""

    scopes: Sequence[str]
    seconds: int | None
    refreshable: bool


@dataclass(frozen=True)
class NewAuthorization:
    """A login to keep."""

    key: Key
    connection_digest: str
    issuer: str
    authorizer: str
    sealed: bytes
    lifetime: Lifetime


async def get(conn: Any, key: Key) -> Authorization | None:
    """The authorization of that key."""
    row = await conn.fetchrow(f"{_SELECT} AND server = $2 AND subject = $3", *key.values())
    return _authorization(key.tenant, row) if row else None


async def of_servers(conn: Any, tenant: str, subjects: Sequence[str], servers: Sequence[str]) -> list[Authorization]:
    """Authorizations of some subjects for some servers."""
    query = f"{_SELECT} AND subject = ANY($2) AND server = ANY($3)"
    return [_authorization(tenant, row) for row in await conn.fetch(query, tenant, subjects, servers)]


async def put(conn: Any, new: NewAuthorization) -> None:
    """Keep a login in the place of the one before."""
    life = new.lifetime
    await conn.execute(
        _PUT,
        *new.key.values(),
        new.connection_digest,
        new.issuer,
        new.authorizer,
        new.sealed,
        list(life.scopes),
        life.seconds,
        life.refreshable,
    )


async def claim_refresh(conn: Any, key: Key, generation: int, seconds: float) -> bool:
    """Take it upon oneself to replace these tokens, for `seconds`; False when somebody else does or has."""
    return bool(await conn.fetchval(_CLAIM, *key.values(), generation, seconds))


async def release_refresh(conn: Any, key: Key, generation: int) -> None:
    """Give the claim back: nothing came of it."""
    query = "UPDATE mcp_authorization SET refresh_until = NULL WHERE (tenant, server, subject) = ($1, $2, $3)"
    await conn.execute(f"{query} AND generation = $4", *key.values(), generation)


async def renew(conn: Any, key: Key, generation: int, sealed: bytes, lifetime: Lifetime) -> None:
    """Put new tokens in the place of those of `generation`."""
    await conn.execute(
        _RENEW, *key.values(), generation, sealed, list(lifetime.scopes), lifetime.seconds, lifetime.refreshable
    )


async def refuse(conn: Any, key: Key, generation: int) -> bool:
    """Forget tokens that were refused; False when they are others by now."""
    return bool(await conn.fetchval(_REFUSE, *key.values(), generation))


async def miss(conn: Any, key: Key, generation: int, scopes: Sequence[str]) -> None:
    """Note scopes that the server asked for."""
    await conn.execute(_MISS, *key.values(), generation, list(scopes))


async def remove(conn: Any, key: Key) -> Authorization | None:
    """Forget an authorization, and answer with it."""
    row = await conn.fetchrow(f"{_DELETE} AND subject = $3 {_RETURNING}", *key.values())
    return _authorization(key.tenant, row) if row else None


async def remove_all(conn: Any, tenant: str, server: str) -> list[Authorization]:
    """Forget all authorizations for a server, and logins under way."""
    await conn.execute("DELETE FROM mcp_login WHERE tenant = $1 AND server = $2", tenant, server)
    rows = await conn.fetch(f"{_DELETE} {_RETURNING}", tenant, server)
    return [_authorization(tenant, row) for row in rows]


@dataclass(frozen=True)
class PendingLogin:
    """A login under way: who began it for which connection, and what it needs to go on."""

    tenant: str
    server: str
    person: str
    connection_digest: str
    sealed: bytes


async def count_logins(conn: Any, tenant: str, person: str) -> int:
    """How many logins a person has under way. Those that were never finished are forgotten here."""
    await conn.execute("DELETE FROM mcp_login WHERE expire_time < now()")
    return int(await conn.fetchval("SELECT count(*) FROM mcp_login WHERE tenant = $1 AND person = $2", tenant, person))


async def begin_login(conn: Any, state_digest: bytes, login: PendingLogin, seconds: int) -> datetime:
    """Keep a login for `seconds`; until when that is."""
    return await conn.fetchval(
        "INSERT INTO mcp_login (state_digest, tenant, server, person, connection_digest, sealed, expire_time)"
        " VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7)) RETURNING expire_time",
        state_digest,
        login.tenant,
        login.server,
        login.person,
        login.connection_digest,
        login.sealed,
        seconds,
    )


async def take_login(conn: Any, state_digest: bytes, tenant: str, server: str, person: str) -> PendingLogin | None:
    """Take a login out, once; None when the person has no such login under way."""
    row = await conn.fetchrow(
        "DELETE FROM mcp_login WHERE state_digest = $1 AND tenant = $2 AND server = $3 AND person = $4"
        " AND expire_time > now() RETURNING connection_digest, sealed",
        state_digest,
        tenant,
        server,
        person,
    )
    return PendingLogin(tenant, server, person, row["connection_digest"], row["sealed"]) if row else None


def _authorization(tenant: str, row: Any) -> Authorization:
    return Authorization(
        key=Key(tenant, row["server"], row["subject"]),
        connection_digest=row["connection_digest"],
        issuer=row["issuer"],
        authorizer=row["authorizer"],
        sealed=row["sealed"],
        scopes=tuple(row["scopes"]),
        missing_scopes=tuple(row["missing_scopes"]),
        expire_time=row["expire_time"],
        refreshable=row["refreshable"],
        generation=row["generation"],
        due=bool(row["due"]),
        ended=bool(row["ended"]),
    )
