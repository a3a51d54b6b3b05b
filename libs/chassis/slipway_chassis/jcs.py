"""Canonical JSON (RFC 8785): one value, one text, so that digests can be compared."""

import hashlib
from contextlib import suppress
from typing import Any

import orjson
import rfc8785

from slipway_chassis.errors import InvalidArgument


class NotCanonical(InvalidArgument):
    """The value has no canonical JSON: not JSON at all, a number beyond 2^53, NaN, or broken UTF-16 surrogates."""

    reason = "NOT_CANONICAL_JSON"


_LARGEST = 2**53 - 1


def canonical_json(value: Any) -> bytes:
    """RFC 8785 text of a JSON value. Raises NotCanonical if there is none."""
    try:
        if _is_plain(value):
            with suppress(orjson.JSONEncodeError):  # nested too deeply for it, or no Unicode
                return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise NotCanonical(f"value has no canonical JSON: {error}") from error


def digest(value: Any) -> str:
    """``sha256:<hex>`` of the canonical JSON of ``value``."""
    return "sha256:" + hashlib.sha256(canonical_json(value)).hexdigest()


def _is_plain(value: Any) -> bool:
    """Without floats, and with keys in ASCII only (where bytes sort like UTF-16), orjson writes RFC 8785."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return -_LARGEST <= value <= _LARGEST
    if kind is dict:
        for name, item in value.items():
            if type(name) is not str or not name.isascii() or not (type(item) is str or _is_plain(item)):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:  # noqa: SIM110 - a generator for each list would cost as much as the rest
            if not _is_plain(item):
                return False
        return True
    return False
