"""Requests that a client may send twice: the second gets the first one's answer."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument


class IdempotencyKeyReused(InvalidArgument):
    """The request id was used with another request."""

    reason = "IDEMPOTENCY_KEY_REUSED"


async def once(
    conn: Any,
    caller: Caller,
    method: str,
    request_id: str,
    fingerprint: bytes,
    produce: Callable[[], Awaitable[bytes]],
) -> bytes:
    """The answer of ``produce``, or the recorded one if the caller sent ``request_id`` to ``method`` before.

    Runs in the transaction of the change that ``produce`` makes, so change and record commit together; concurrent
    duplicates wait for each other. ``fingerprint`` tells requests apart (a digest of what the client sent): another one
    under the same id raises IdempotencyKeyReused. An empty ``request_id`` always produces. Errors are not recorded.
    Records are kept for 24 hours (`retention`).
    """
    if not request_id:
        return await produce()
    scope = (caller.tenant, caller.subject, method, request_id)
    name = "\0".join(scope).encode()
    lock = int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)
    await conn.execute("SELECT pg_advisory_xact_lock($1)", lock)
    row = await conn.fetchrow(
        "SELECT fingerprint, answer FROM idempotency"
        " WHERE tenant = $1 AND subject = $2 AND method = $3 AND request_id = $4",
        *scope,
    )
    if row is not None:
        if row["fingerprint"] != fingerprint:
            raise IdempotencyKeyReused("request_id was used before with another request", field="request_id")
        return row["answer"]
    answer = await produce()
    await conn.execute(
        "INSERT INTO idempotency (tenant, subject, method, request_id, fingerprint, answer)"
        " VALUES ($1, $2, $3, $4, $5, $6)",
        *scope,
        fingerprint,
        answer,
    )
    return answer
