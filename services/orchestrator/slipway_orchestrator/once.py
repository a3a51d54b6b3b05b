"""What the domain needs of a transaction, and of a request that may come twice."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

Transaction = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens a transaction: commits at the end of the block."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A client's idempotency key and the digest of what it sent."""

    method: str
    request_id: str
    fingerprint: bytes
