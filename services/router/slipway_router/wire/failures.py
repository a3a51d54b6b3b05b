"""From a provider's HTTP answer or a broken connection to a ProviderFailure."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from slipway_router.errors import (
    ProviderAuth,
    ProviderFailure,
    ProviderProtocol,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)

_MESSAGE_CHARACTERS = 500


def failure_of_status(provider: str, status: int, headers: Mapping[str, str], body: bytes) -> ProviderFailure:
    """The failure that an HTTP status other than 200 stands for."""
    failure: ProviderFailure
    if status in (401, 402, 403):
        # The provider's own words may quote the platform's key: they go nowhere.
        failure = ProviderAuth(f"provider {provider} refuses the platform's credentials")
    elif status == 429:
        failure = ProviderRateLimited(f"provider {provider} is rate limiting", retry_after=retry_after(headers))
    elif status >= 500 or status in (404, 408, 409, 425):
        failure = ProviderUnavailable(f"provider {provider} answered {status}", retry_after=retry_after(headers))
    elif 400 <= status < 500:
        failure = ProviderRejected(f"provider {provider} refuses the request: {_words(body) or status}")
    else:
        # Redirects are not followed: a provider's address comes from the catalogue only.
        failure = ProviderProtocol(f"provider {provider} answered {status}")
    failure.status = status
    return failure


def failure_of_error_object(provider: str, error: Any) -> ProviderFailure:
    """The failure that an `error` object within a stream or a 200 answer stands for."""
    fields = error if isinstance(error, dict) else {}
    status = next((value for key in ("code", "status") if isinstance(value := fields.get(key), int)), 0)
    if not 400 <= status < 600:
        kind = f"{fields.get('type', '')} {fields.get('code', '')}"
        status = 429 if "rate_limit" in kind else 400 if "invalid_request" in kind or "context_length" in kind else 500
    return failure_of_status(provider, status, {}, json.dumps({"error": fields}).encode())


def failure_of_transport(provider: str, error: httpx.TransportError) -> ProviderFailure:
    """The failure that a broken connection stands for."""
    if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError):
        return ProviderUnavailable(f"provider {provider} broke off its answer")
    return ProviderUnavailable(f"provider {provider} cannot be reached ({type(error).__name__})")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3: seconds or a date); None without one or if it is damaged."""
    value = headers.get("retry-after", "").strip()
    if value.replace(".", "", 1).isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _words(body: bytes) -> str:
    try:
        error = json.loads(body).get("error", {})
        message = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        return ""
    return str(message)[:_MESSAGE_CHARACTERS]
