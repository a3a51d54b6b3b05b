"""JSON of providers."""

import json
from typing import Any

from slipway_router.errors import ProviderProtocol


def json_object(provider: str, raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`; raises ProviderProtocol for anything else."""
    try:
        payload = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ProviderProtocol(f"provider {provider} answered something that is not JSON") from error
    if not isinstance(payload, dict):
        raise ProviderProtocol(f"provider {provider} answered JSON that is not an object")
    return payload
