"""Who is calling, after the bearer token or API key was verified."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

API_KEY_PREFIX: Final = "api-key:"
# Subjects of these forms are made by the gateway; an identity provider that hands one out is refused.
RESERVED_PREFIXES: Final = (API_KEY_PREFIX, "service:")

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\s]")


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller. `token_id` is the token's `jti` or the API key's id; `expires_at` is the credential's end."""

    subject: str
    tenant: str
    roles: frozenset[str]
    groups: frozenset[str]
    name: str
    method: Literal["oidc", "api_key"]
    token_id: str
    expires_at: datetime
    # Who made the API key that is used.
    owner: str = ""


def is_tenant(text: str) -> bool:
    """True for a name that can be a tenant: a letter or digit, then up to 62 letters, digits, `.`, `_`, `-`."""
    return _TENANT.fullmatch(text) is not None


def is_outside_subject(text: str) -> bool:
    """True for a subject that an identity provider may hand out: 1 to 255 characters, no blanks, not reserved."""
    return 0 < len(text) <= 255 and _CONTROL.search(text) is None and not text.startswith(RESERVED_PREFIXES)
