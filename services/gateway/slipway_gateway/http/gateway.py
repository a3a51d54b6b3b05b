"""What the routes work with, made once by `main.py`."""

import asyncio
from dataclasses import dataclass, field

from slipway_chassis.readiness import Readiness

from slipway_gateway.api_keys import ApiKeys
from slipway_gateway.authentication import Authenticator
from slipway_gateway.caller_tokens import CallerTokens
from slipway_gateway.directory import Directory
from slipway_gateway.http.calls import Peers
from slipway_gateway.rate_limits import RateLimiter
from slipway_gateway.run_grants import RunGrants


@dataclass(frozen=True)
class HttpLimits:
    """Bounds of the HTTP API; times in seconds, sizes in bytes."""

    max_body_bytes: int
    max_upload_bytes: int
    max_wait: float
    heartbeat: float
    max_stream: float


@dataclass(frozen=True)
class Gateway:
    """The parts of a running gateway. `stopping` is set when open streams should end."""

    authenticator: Authenticator
    api_keys: ApiKeys
    tokens: CallerTokens
    grants: RunGrants
    directory: Directory
    limiter: RateLimiter
    peers: Peers
    limits: HttpLimits
    allowed_hosts: frozenset[str]
    readiness: Readiness
    issuer: str
    """Of access tokens: where an MCP client gets them."""
    public_url: str = ""
    """Address that clients know this gateway by; empty: the one that they ask."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
