"""Identifiers: TypeID, a prefix that names the kind and a UUIDv7 that sorts by time (``run_01…``)."""

import re

from typeid import TypeID

# Crockford base 32 of 128 bits: 26 digits, of which the first holds three bits only.
_SUFFIX = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")


def new_id(prefix: str) -> str:
    """A new id ``<prefix>_<26 digits>``; ids of one process sort by their time of creation."""
    return str(TypeID(prefix=prefix))


def is_id(prefix: str, text: str) -> bool:
    """True if ``text`` is a well-formed id of the kind ``prefix``."""
    head, separator, suffix = text.rpartition("_")
    return bool(separator) and head == prefix and _SUFFIX.fullmatch(suffix) is not None
