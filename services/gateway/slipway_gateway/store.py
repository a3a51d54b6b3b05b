"""API keys and revocations in PostgreSQL."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
from slipway_chassis.caller import Caller
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import transaction

from slipway_gateway.api_keys import (
    ApiKey,
    ApiKeyAlreadyIssued,
    ApiKeyNameTaken,
    IdempotencyKeyReused,
)
from slipway_gateway.audit_log import AuditLog
from slipway_gateway.run_grants import RunGrant

_COLUMNS = "key_id, tenant, name, roles, owner, create_time, expire_time, revoke_time"


class PostgresApiKeyStore:
    """ApiKeyStore in PostgreSQL; each change and its audit event commit together."""

    def __init__(self, pool: asyncpg.Pool, audit: AuditLog) -> None:
        self._pool = pool
        self._audit = audit

    async def insert(
        self, key: ApiKey, digest: bytes, *, request_id: str, caller: Caller, policy: PolicyDecision
    ) -> None:
        """As in ApiKeyStore."""
        async with transaction(self._pool) as connection:
            # Two owners must not get one name, however close together they ask.
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{key.tenant}/{key.name}"
            )
            if request_id:
                await self._check_request(connection, key, request_id)
            other = await connection.fetchval(
                "SELECT 1 FROM api_key WHERE tenant = $1 AND name = $2 AND owner <> $3 LIMIT 1",
                key.tenant,
                key.name,
                key.owner,
            )
            if other:
                raise ApiKeyNameTaken(f"somebody else has API keys named {key.name}", field="name")
            await connection.execute(
                "INSERT INTO api_key "
                "(key_id, tenant, name, roles, owner, digest, request_id, create_time, expire_time) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                key.key_id,
                key.tenant,
                key.name,
                list(key.roles),
                key.owner,
                digest,
                request_id or None,
                key.create_time,
                key.expire_time,
            )
            await self._audit.key_created(connection, key, caller, policy)

    async def _check_request(self, connection: Any, key: ApiKey, request_id: str) -> None:
        row = await connection.fetchrow(
            f"SELECT {_COLUMNS} FROM api_key WHERE tenant = $1 AND owner = $2 AND request_id = $3",  # noqa: S608
            key.tenant,
            key.owner,
            request_id,
        )
        if row is None:
            return
        earlier = _api_key(row)
        same_life = earlier.expire_time - earlier.create_time == key.expire_time - key.create_time
        if (earlier.name, earlier.roles) != (key.name, key.roles) or not same_life:
            raise IdempotencyKeyReused("the idempotency key was used for another API key", field="Idempotency-Key")
        raise ApiKeyAlreadyIssued(
            f"{earlier.key_id} was issued for this idempotency key; its secret is shown only once: "
            "revoke it and ask again with another idempotency key if it was lost",
            metadata={"key_id": earlier.key_id},
        )

    async def find_by_digest(self, digest: bytes) -> ApiKey | None:
        """As in ApiKeyStore."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM api_key WHERE digest = $1", digest)  # noqa: S608
        return None if row is None else _api_key(row)

    async def find(self, tenant: str, key_id: str) -> ApiKey | None:
        """As in ApiKeyStore."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(
                f"SELECT {_COLUMNS} FROM api_key WHERE tenant = $1 AND key_id = $2",  # noqa: S608
                tenant,
                key_id,
            )
        return None if row is None else _api_key(row)

    async def active(self, tenant: str, name: str) -> Sequence[ApiKey]:
        """As in ApiKeyStore."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM api_key "  # noqa: S608
                "WHERE tenant = $1 AND name = $2 AND revoke_time IS NULL AND expire_time > now()",
                tenant,
                name,
            )
        return [_api_key(row) for row in rows]

    async def page(self, tenant: str, *, before: str, limit: int) -> Sequence[ApiKey]:
        """As in ApiKeyStore. Ids sort by time."""
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(
                f"SELECT {_COLUMNS} FROM api_key "  # noqa: S608
                "WHERE tenant = $1 AND ($2 = '' OR key_id < $2) ORDER BY key_id DESC LIMIT $3",
                tenant,
                before,
                limit,
            )
        return [_api_key(row) for row in rows]

    async def revoke(self, key: ApiKey, *, caller: Caller, policy: PolicyDecision) -> None:
        """As in ApiKeyStore."""
        async with transaction(self._pool) as connection:
            changed = await connection.fetchval(
                "UPDATE api_key SET revoke_time = $3 WHERE tenant = $1 AND key_id = $2 AND revoke_time IS NULL "
                "RETURNING key_id",
                key.tenant,
                key.key_id,
                datetime.now(UTC),
            )
            if changed:
                await self._audit.key_revoked(connection, key, caller, policy)


class PostgresRevocations:
    """Revocations in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def is_revoked(self, grant: RunGrant) -> bool:
        """As in Revocations. A grant's `iat` is cut to seconds, hence the comparison in whole seconds."""
        async with transaction(self._pool) as connection:
            return bool(
                await connection.fetchval(
                    "SELECT EXISTS (SELECT FROM revoked_grant WHERE tenant = $1 AND grant_id = $2) OR EXISTS "
                    "(SELECT FROM revoked_subject WHERE tenant = $1 AND subject = $3 "
                    "AND date_trunc('second', revoke_time) >= $4)",
                    grant.tenant,
                    grant.grant_id,
                    grant.subject,
                    grant.issued_at,
                )
            )

    async def revoke_grant(self, tenant: str, grant_id: str) -> None:
        """As in Revocations."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "INSERT INTO revoked_grant (tenant, grant_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", tenant, grant_id
            )

    async def revoke_subject(self, tenant: str, subject: str) -> None:
        """As in Revocations."""
        async with transaction(self._pool) as connection:
            await connection.execute(
                "INSERT INTO revoked_subject (tenant, subject) VALUES ($1, $2) "
                "ON CONFLICT (tenant, subject) DO UPDATE SET revoke_time = now()",
                tenant,
                subject,
            )


def _api_key(row: Any) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        tenant=row["tenant"],
        name=row["name"],
        roles=tuple(row["roles"]),
        owner=row["owner"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
    )
