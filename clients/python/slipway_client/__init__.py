"""Typed Python client of the Slipway HTTP API."""

from slipway_client.client import Client
from slipway_client.errors import (
    ApiError,
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    SlipwayError,
    UnauthenticatedError,
)
from slipway_client.models import (
    Agent,
    AgentVersion,
    Approval,
    Collection,
    Document,
    File,
    Passage,
    Run,
    RunEvent,
    Tool,
    ToolResult,
)

__all__ = [
    "Agent",
    "AgentVersion",
    "ApiError",
    "Approval",
    "Client",
    "Collection",
    "ConflictError",
    "ConnectionFailedError",
    "Document",
    "File",
    "InvalidRequestError",
    "NotFoundError",
    "Passage",
    "PermissionDeniedError",
    "RateLimitedError",
    "Run",
    "RunEvent",
    "SlipwayError",
    "Tool",
    "ToolResult",
    "UnauthenticatedError",
]
