"""The connection to Weaviate: opened when it is needed, its errors translated, its operations timed."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import httpx
import weaviate
from slipway_chassis.logs import get_logger
from weaviate.classes.init import AdditionalConfig, Auth, Timeout
from weaviate.config import GrpcConfig
from weaviate.exceptions import (
    InsufficientPermissionsError,
    ResponseCannotBeDecodedError,
    UnexpectedStatusCodeError,
    WeaviateBaseError,
    WeaviateStartUpError,
)

from slipway_memory.errors import VectorStoreRefused, VectorStoreUnavailable
from slipway_memory.metrics import VECTOR_SECONDS
from slipway_memory.vectors.url import WeaviateAddress

# Aliases came with 1.32.
_LEAST_VERSION = (1, 32)
_RETRY_AFTER = 2  # seconds
_KEY_REFUSED = "Weaviate does not accept the key, or the key may not do this"
# What a server that is away did not take is tried again by the client, with growing pauses, until our time-out ends it:
# this is the one layer that does. gRPC itself looks for a server that comes back at least this often.
_CHANNEL = [("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 2000)]
_TIMEOUT = Timeout(init=5, query=10, insert=30)

_UNAUTHENTICATED = re.compile(r"UNAUTHENTICATED|[Uu]nauthorized")
_UNSUPPORTED = re.compile(r"version (\S+) is not supported")

_log = get_logger(__name__)
# The client logs objects that were refused whole, with the text of the documents; what matters is logged here.
logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)


class WeaviateConnection:
    """One client for all; usable although Weaviate is away at first.

    With TLS its certificate must be of a public authority, or of one in the file that SSL_CERT_FILE names.
    """

    def __init__(self, address: WeaviateAddress) -> None:
        self._address = address
        # The client takes an authority of one's own from this variable for HTTP, and from its caller for gRPC.
        authorities = os.environ.get("SSL_CERT_FILE", "") if address.tls else ""
        credentials = grpc.ssl_channel_credentials(Path(authorities).read_bytes()) if authorities else None
        self._client = weaviate.use_async_with_custom(
            http_host=address.host,
            http_port=address.port,
            http_secure=address.tls,
            grpc_host=address.host,
            grpc_port=address.grpc_port,
            grpc_secure=address.tls,
            auth_credentials=Auth.api_key(address.key) if address.key else None,
            additional_config=AdditionalConfig(
                timeout=_TIMEOUT,
                trust_env=bool(authorities),
                grpc_config=GrpcConfig(channel_options=_CHANNEL, credentials=credentials),
            ),
            # They ask a package index for the client's newest version; `connect` below checks what matters.
            skip_init_checks=True,
        )
        self._connecting = asyncio.Lock()

    @property
    def client(self) -> weaviate.WeaviateAsyncClient:
        """The client itself, connected or not."""
        return self._client

    @asynccontextmanager
    async def use(self, operation: str, *, seconds: float) -> AsyncGenerator[weaviate.WeaviateAsyncClient]:
        """The connected client for one operation of at most `seconds`.

        Raises VectorStoreUnavailable, VectorStoreRefused.
        """
        started = time.perf_counter()
        outcome = "ok"
        try:
            async with asyncio.timeout(seconds):
                await self._connected()
                yield self._client
        except (TimeoutError, WeaviateBaseError, grpc.aio.AioRpcError, httpx.HTTPError) as error:
            translated = _translated(operation, error)
            outcome = translated.reason.lower()
            raise translated from error
        finally:
            VECTOR_SECONDS.labels(operation, outcome).observe(time.perf_counter() - started)

    async def check(self) -> None:
        """One round trip over HTTP and one over gRPC. Raises as `use`."""
        async with self.use("check", seconds=5) as client:
            # The other two print what they run into to standard output, where the log is; this one raises it.
            await client.get_meta()
            if not await client.is_ready():
                raise VectorStoreUnavailable("Weaviate is starting", retry_after=_RETRY_AFTER)
            if not await client.is_live():
                raise VectorStoreRefused(
                    f"Weaviate answers on port {self._address.port}, but not to gRPC on port {self._address.grpc_port}",
                    retry_after=_RETRY_AFTER,
                )

    async def close(self) -> None:
        """Ends the connection."""
        await self._client.close()

    async def _connected(self) -> None:
        if self._client.is_connected():
            return
        async with self._connecting:
            if self._client.is_connected():
                return
            await self._client.connect()
            meta = await self._client.get_meta()
            version = str(meta["version"])
            if tuple(int(part) for part in version.split("-", maxsplit=1)[0].split(".")[:2]) < _LEAST_VERSION:
                await self._client.close()
                raise VectorStoreRefused(_too_old(version), retry_after=_RETRY_AFTER)


def _too_old(version: str) -> str:
    return f"Weaviate {version} is too old: {'.'.join(map(str, _LEAST_VERSION))} or later is needed"


def _translated(operation: str, error: Exception) -> VectorStoreRefused | VectorStoreUnavailable:
    """This service's error for one of the client's; the cause is for the log, not for callers."""
    if reason := _refusal(error):
        _log.error("vectors.refused", operation=operation, reason=reason)
        return VectorStoreRefused(reason, retry_after=_RETRY_AFTER)
    _log.warning("vectors.unavailable", operation=operation, error=f"{type(error).__name__}: {str(error)[:500]}")
    return VectorStoreUnavailable("the index of passages does not answer", retry_after=_RETRY_AFTER)


def _refusal(error: Exception) -> str:
    """What an operator must change; empty when it may pass by itself."""
    text = str(error)
    status = error.status_code if isinstance(error, UnexpectedStatusCodeError) else 0
    if isinstance(error, InsufficientPermissionsError) or status in (401, 403) or _UNAUTHENTICATED.search(text):
        return _KEY_REFUSED
    if isinstance(error, WeaviateStartUpError) and (old := _UNSUPPORTED.search(text)):
        return _too_old(old[1])
    if isinstance(error, ResponseCannotBeDecodedError) or status in (404, 405) or "illegal request line" in text:
        return "what answers there is not Weaviate"
    return ""
