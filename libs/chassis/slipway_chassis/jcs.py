"""Canonical JSON (RFC 8785): one value, one text, so that digests can be compared."""

import hashlib
from typing import Any

import rfc8785

from slipway_chassis.errors import InvalidArgument


class NotCanonical(InvalidArgument):
    """The value has no canonical JSON: not JSON at all, a number beyond 2^53, NaN, or broken UTF-16 surrogates."""

    reason = "NOT_CANONICAL_JSON"


def canonical_json(value: Any) -> bytes:
    """RFC 8785 text of a JSON value. Raises NotCanonical if there is none."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise NotCanonical(f"value has no canonical JSON: {error}") from error


def digest(value: Any) -> str:
    """``sha256:<hex>`` of the canonical JSON of ``value``."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()
