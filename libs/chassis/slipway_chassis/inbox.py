"""Consumers that may see a message twice and act on it once."""

from typing import Any


async def first_time(conn: Any, consumer: str, message_id: str) -> bool:
    """True if ``consumer`` has not handled the message yet; it is then marked as handled.

    Called in the handler's transaction: if that rolls back, so does the mark. A concurrent delivery of the same message
    waits for it.
    """
    marked = await conn.fetchval(
        "INSERT INTO inbox (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true",
        consumer,
        message_id,
    )
    return marked is not None
