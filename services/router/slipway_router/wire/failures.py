"""From a provider's HTTP answer or a broken connection to a ProviderFailure."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from slipway_router.errors import (
    ContentFiltered,
    ProviderAuth,
    ProviderContextTooLong,
    ProviderFailure,
    ProviderProtocol,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from slipway_router.health import RETRY_AFTER_MOST
from slipway_router.wire.connections import BrokenOff, TransportFailure
from slipway_router.wire.text import whole_characters

_MESSAGE_CHARACTERS = 500
# Type or code of the error object: OpenAI, Azure, Mistral, litellm. vLLM and llama.cpp only say it in words.
_TOO_LONG = ("context_length_exceeded", "context_window", "contextwindow", "exceed_context_size")
_TOO_LONG_WORDS = ("maximum context length", "context window", "context length", "prompt is too long", "context size")
_FILTERED = ("content_filter", "content_policy", "contentpolicy", "responsibleai")


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
        failure = _refused(provider, status, body)
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
        ours = any(word in kind for word in ("invalid_request", *_TOO_LONG, *_FILTERED))
        status = 429 if "rate_limit" in kind else 400 if ours else 500
    return failure_of_status(provider, status, {}, json.dumps({"error": fields}).encode())


def failure_of_transport(provider: str, error: TransportFailure) -> ProviderFailure:
    """The failure that a broken connection stands for."""
    if isinstance(error, BrokenOff):
        return ProviderUnavailable(f"provider {provider} broke off its answer")
    return ProviderUnavailable(f"provider {provider} cannot be reached ({error})")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3: seconds or a date), an hour at most; None without one or if it
    is damaged."""
    value = headers.get("retry-after", "").strip()
    if value.replace(".", "", 1).isdigit():
        return min(float(value), RETRY_AFTER_MOST)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), RETRY_AFTER_MOST)


def _refused(provider: str, status: int, body: bytes) -> ProviderFailure:
    message, kind = _words(body)
    said = f"provider {provider} refuses the request: {message or status}"
    if any(word in kind for word in _TOO_LONG) or any(words in message.lower() for words in _TOO_LONG_WORDS):
        return ProviderContextTooLong(said)
    if any(word in kind for word in _FILTERED):
        return ContentFiltered(said)
    return ProviderRejected(said)


def _words(body: bytes) -> tuple[str, str]:
    """Message, and type and code, of an error body."""
    try:
        error = json.loads(body).get("error", {})
    except (ValueError, AttributeError, RecursionError):
        return "", ""
    if not isinstance(error, dict):
        return whole_characters(str(error))[:_MESSAGE_CHARACTERS], ""
    message = whole_characters(str(error.get("message") or ""))[:_MESSAGE_CHARACTERS]
    return message, f"{error.get('type', '')} {error.get('code', '')}".lower()
