"""Canonical JSON (RFC 8785): one value, one text, so that digests can be compared."""

import hashlib
import json
from typing import Any

import rfc8785

from slipway_chassis.errors import InvalidArgument


class NotCanonical(InvalidArgument):
    """The value has no canonical JSON: not JSON at all, a number beyond 2^53, NaN, or broken UTF-16 surrogates."""

    reason = "NOT_CANONICAL_JSON"


_LARGEST = 2**53 - 1
# Without floats, and with keys in ASCII only (where code points sort like UTF-16), this is RFC 8785, ten times as fast.
_encoder = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), check_circular=False)


def canonical_json(value: Any) -> bytes:
    """RFC 8785 text of a JSON value. Raises NotCanonical if there is none."""
    try:
        return _encoder.encode(value).encode() if _is_plain(value) else rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise NotCanonical(f"value has no canonical JSON: {error}") from error


def digest(value: Any) -> str:
    """``sha256:<hex>`` of the canonical JSON of ``value``."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return -_LARGEST <= value <= _LARGEST
    if kind is dict:
        return all(type(name) is str and name.isascii() and _is_plain(item) for name, item in value.items())
    return (kind is list or kind is tuple) and all(map(_is_plain, value))
