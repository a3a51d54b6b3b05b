"""The message that asks for a version to be indexed."""

from __future__ import annotations

import json

from slipway_chassis.ids import new_id

from slipway_memory.transactions import Transaction

TOPIC = "memory.ingest"
GROUP = "memory"


async def send_for_indexing(transaction: Transaction, version_id: str, tenant: str) -> None:
    """Asks for a version to be indexed, when the transaction commits. Asking twice does no harm."""
    body = json.dumps({"version_id": version_id}).encode()
    await transaction.send(TOPIC, body, message_id=new_id("msg"), tenant=tenant)


def version_of(body: bytes) -> str:
    """The version that a message asks for. Raises ValueError for a message of another form."""
    version_id = json.loads(body)["version_id"]
    if not isinstance(version_id, str):
        raise ValueError("version_id is not a string")
    return version_id
