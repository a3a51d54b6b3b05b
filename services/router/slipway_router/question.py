"""What a request asks, whoever asks, how often, and what it may cost: the identity of effects and of kept answers."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import MISSING, Field, asdict, fields
from typing import Any

from slipway_router.chat import ChatRequest, EmbeddingsRequest

_IDS = frozenset({"effect", "request_id", "session_id", "labels", "checks"})
"""Names of this one request; `checks` are made of other fields."""
_CEILINGS = frozenset({"max_cost", "run_max_cost", "max_latency"})
_OF_ANSWERS = _IDS | _CEILINGS
_OF_EFFECTS = _OF_ANSWERS - {"session_id", "labels"} | {"max_tokens"}


def fingerprint(request: ChatRequest | EmbeddingsRequest) -> bytes:
    """SHA-256 of what an effect asks for.

    Ceilings are no part of it: a run that repeats an effect may have less left, or more. Neither are fields that have
    their default: a field that a later version adds does not make another question of an old one.
    """
    return _digest(_asked(request, _OF_EFFECTS))


def answer_key(tenant: str, catalogue_digest: str, request: ChatRequest) -> str:
    """Hex SHA-256 of all that an answer depends on."""
    return _digest([tenant, catalogue_digest, _asked(request, _OF_ANSWERS)]).hex()


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).digest()


def _asked(request: ChatRequest | EmbeddingsRequest, without: Collection[str]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name not in without and value != _default(field):
            asked[field.name] = [asdict(one) for one in value] if field.name == "messages" else value
    return asked


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)
