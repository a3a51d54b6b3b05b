"""Usage reports of providers as disjoint classes of tokens: what is counted twice is paid twice.

`prompt_tokens` contains `prompt_tokens_details.{cached,image}_tokens`, `completion_tokens` contains
`completion_tokens_details.reasoning_tokens`. Compatible servers differ, each as its API reference says (November 2026):
xAI counts reasoning beside `completion_tokens`, and Gemini's compatible endpoint only in `total_tokens`; DeepSeek has
`prompt_cache_hit_tokens`, Moonshot a `cached_tokens` of its own; what was written to a cache is `cache_write_tokens`
(OpenRouter) or `cache_creation_input_tokens`, within `prompt_tokens`. Anthropic's and Gemini's own reports come in the
last form: litellm makes it of them.

A report that is missing, or does not add up, is None: the caller estimates then, and says so.
"""

from collections.abc import Mapping
from typing import Any

from slipway_router.tokens import TokenCount

_MOST = 1_000_000_000
"""Tokens that no call has: a larger count is a mistake of the provider's."""


def token_count(usage: Any) -> TokenCount | None:
    """A `usage` object in OpenAI's format, or in what compatible servers make of it."""
    if not isinstance(usage, Mapping):
        return None
    prompt, completed = _count(usage, "prompt_tokens", None), _count(usage, "completion_tokens", 0)
    if prompt is None or completed is None:
        return None
    cached = _first(
        _detail(usage, "prompt_tokens_details", "cached_tokens"),
        _count(usage, "prompt_cache_hit_tokens", 0),
        _count(usage, "cached_tokens", 0),
    )
    written = _first(
        _detail(usage, "prompt_tokens_details", "cache_write_tokens"),
        _detail(usage, "prompt_tokens_details", "cache_creation_tokens"),
        _count(usage, "cache_creation_input_tokens", 0),
    )
    image = _detail(usage, "prompt_tokens_details", "image_tokens")
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    total = _count(usage, "total_tokens", 0)
    if cached is None or written is None or image is None or reasoning is None or total is None:
        return None
    beside = total - prompt - completed
    if beside > 0 and reasoning in (0, beside):
        # Tokens in the total and in no part of it are the model's reasoning.
        reasoning = beside
        completed += beside
    return _disjoint(prompt, cached, written, image, completed, reasoning)


def _disjoint(prompt: int, cached: int, written: int, image: int, completed: int, reasoning: int) -> TokenCount | None:
    fresh = prompt - cached - written
    if fresh < 0 or reasoning > completed:
        return None
    # Images may lie in the cache, and OpenAI's format does not say how much of them.
    image = min(image, fresh)
    return TokenCount(
        input=fresh - image,
        cached_input=cached,
        output=completed - reasoning,
        reasoning=reasoning,
        cache_write=written,
        image=image,
    )


def _first(*counts: int | None) -> int | None:
    """The first that says something; None if any is no count."""
    if any(count is None for count in counts):
        return None
    return next((count for count in counts if count), 0)


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return _count(details, name, 0) if isinstance(details, Mapping) else 0


def _count(usage: Mapping[str, Any], name: str, absent: int | None) -> int | None:
    """A count; `absent` if there is none, None if it is no count at all."""
    value = usage.get(name)
    if value is None:
        return absent
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None
