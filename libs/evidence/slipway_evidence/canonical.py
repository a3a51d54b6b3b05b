"""RFC 8785 canonical JSON of bounded depth, read and written fast enough for every event of a log.

The standard library's encoder writes RFC 8785 for almost every value. It departs from it in two places, the order of
member names beyond U+FFFF and the spelling of some fractions; values that may hold either go through `rfc8785`.
"""

import json
import re
from typing import NoReturn, TypeAlias

import rfc8785

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
MAX_DEPTH = 64
_MAX_INTEGER = 2**53 - 1
# Fractions that Python spells differently from RFC 8785 hold a signed exponent or end in `.0`. Text inside of strings
# may match too: that costs time, never correctness. Two patterns that begin with a letter are found quicker than one.
_EXPONENT, _WHOLE = re.compile(r"e[-+]\d"), re.compile(r"\.0(?!\d)")


class CanonicalError(ValueError):
    """Text is not JSON of the profile, or not its canonical form."""


def _constant(text: str) -> NoReturn:
    raise CanonicalError(f"{text} is not JSON")


def _integer(text: str) -> int | float:
    """A whole number; beyond 2^53 it is what RFC 8785 takes it for, an IEEE double of at most 21 digits."""
    if len(text) > 22:
        raise CanonicalError(f"{text[:22]}… is not the canonical form of a number")
    number = int(text)
    return number if abs(number) <= _MAX_INTEGER else float(number)


_decoder = json.JSONDecoder(parse_int=_integer, parse_constant=_constant)
_encoder = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), sort_keys=True, check_circular=False, allow_nan=False
)


def parse(data: bytes) -> Json:
    """Read JSON; of a repeated member the last counts, so compare with `dump`. Raises CanonicalError."""
    try:
        value: Json = _decoder.decode(data.decode())
    except UnicodeDecodeError as error:
        raise CanonicalError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise CanonicalError(f"byte {len(error.doc[: error.pos].encode())} is not JSON: {error.msg}") from None
    except RecursionError:
        raise CanonicalError(f"nested deeper than {MAX_DEPTH}") from None
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        _check_depth(value)
    return value


def _check_depth(value: Json) -> None:
    """Bound the depth level by level, so that nothing recursive ever meets a deep value."""
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Json] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        if not below:
            return
        level = below
    raise CanonicalError(f"nested deeper than {MAX_DEPTH}")


def dump(value: object) -> bytes:
    """Canonical form of a JSON value. Raises CanonicalError where it has none."""
    try:
        text = _encoder.encode(value)
        if _is_sure(text):
            return text.encode()
        return rfc8785.dumps(value)  # pyright: ignore[reportArgumentType] - it refuses what is no JSON value
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, ValueError) as error:
        raise CanonicalError(f"no canonical form: {error}") from None


def _is_sure(text: str) -> bool:
    fractions = _EXPONENT.search(text) or _WHOLE.search(text)
    return fractions is None and (text.isascii() or max(text) <= "\uffff")


def check_canonical(value: Json, data: bytes) -> None:
    """Check that the bytes are the canonical form of the value read from them. Raises CanonicalError."""
    canonical = dump(value)
    if canonical != data:
        pairs = zip(canonical, data, strict=False)
        at = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(canonical), len(data)))
        raise CanonicalError(f"byte {at} departs from the canonical form")


def parse_canonical(data: bytes) -> Json:
    """Read JSON whose bytes are its canonical form. Raises CanonicalError."""
    value = parse(data)
    check_canonical(value, data)
    return value
