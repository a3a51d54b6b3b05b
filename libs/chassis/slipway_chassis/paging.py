"""Cursor pagination: opaque page tokens, bound to the tenant and the method that issued them.

A token only says where to go on; it grants nothing, for every query filters by the caller's tenant anyway. So it is not
signed, and a damaged or foreign one is an error of the request, never an empty page.
"""

import base64
import binascii
import json
from collections.abc import Sequence

from slipway_chassis.errors import InvalidArgument

Field = str | int


class InvalidPageToken(InvalidArgument):
    """The page token is damaged, or was issued by another method or for another tenant."""

    reason = "INVALID_PAGE_TOKEN"

    def __init__(self) -> None:
        super().__init__("page_token is not one that this method issued", field="page_token")


def encode_token(tenant: str, method: str, *fields: Field) -> str:
    """Page token from which ``decode_token`` gives ``fields`` back, to the same tenant and method only."""
    text = json.dumps([tenant, method, *fields], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def decode_token(
    tenant: str, method: str, token: str, kinds: Sequence[type[str] | type[int]] | None = None
) -> tuple[Field, ...] | None:
    """Fields of a page token, or None for the empty token (first page).

    With ``kinds`` (``(str, int)``) number and types of the fields are checked as well. Raises InvalidPageToken.
    """
    if not token:
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        owner, issuer, *fields = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError) as error:
        raise InvalidPageToken from error
    if owner != tenant or issuer != method or any(type(field) not in (str, int) for field in fields):
        raise InvalidPageToken
    if kinds is not None and [type(field) for field in fields] != list(kinds):
        raise InvalidPageToken
    return tuple(fields)


def page_size(requested: int, default: int, maximum: int) -> int:
    """Rows of a page: ``default`` for 0, never more than ``maximum`` (AIP-158). InvalidArgument if negative."""
    if requested < 0:
        raise InvalidArgument("page_size must not be negative", field="page_size")
    return min(requested or default, maximum)
