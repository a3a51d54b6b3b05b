"""JSON as outsiders may send it: no duplicate names, no NaN or Infinity, bounded depth, only storable text."""

import json
import math
from collections.abc import Mapping
from typing import Final, NoReturn, cast

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

MAX_DEPTH: Final = 64


class JsonRejected(ValueError):
    """The text is not acceptable JSON; the message says why, in one sentence."""


def _no_constant(name: str) -> NoReturn:
    raise JsonRejected(f"{name} is not JSON (RFC 8259)")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise JsonRejected("a number is too large")
    return number


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise JsonRejected(f"the name {name[:64]!r} stands twice in one object")
            seen.add(name)
    return members


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def parse(body: bytes, *, max_depth: int = MAX_DEPTH) -> JsonValue:
    """Parses one JSON text in UTF-8. Raises JsonRejected, never anything else, for whatever the bytes are."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise JsonRejected("the text is not UTF-8") from None
    if text.startswith("\ufeff"):
        raise JsonRejected("the text begins with a byte order mark")
    try:
        value = cast(JsonValue, _decoder.decode(text))
    except JsonRejected:
        raise
    except RecursionError:
        raise JsonRejected(f"the text is nested deeper than {max_depth} levels") from None
    except json.JSONDecodeError as error:
        raise JsonRejected(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError:
        # int() refuses more digits than sys.get_int_max_str_digits().
        raise JsonRejected("a number has too many digits") from None
    _check(value, max_depth, strings=b"\\u" in body)
    return value


def _check(value: JsonValue, max_depth: int, *, strings: bool) -> None:
    """Bounds the depth; looks at strings only when the text held escapes: raw UTF-8 can hold no lone surrogate."""
    level: list[JsonValue] = [value]
    for _ in range(max_depth + 1):
        below: list[JsonValue] = []
        for item in level:
            if isinstance(item, dict):
                if strings:
                    for name in item:
                        _check_text(name)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif strings and isinstance(item, str):
                _check_text(item)
        if not below:
            return
        level = below
    raise JsonRejected(f"the text is nested deeper than {max_depth} levels")


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise JsonRejected("a string holds U+0000, which cannot be stored")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise JsonRejected("a string holds a lone surrogate, which is not a character") from None


def parse_object(body: bytes) -> Mapping[str, JsonValue]:
    """Like `parse`, and refuses everything but an object."""
    value = parse(body)
    if not isinstance(value, dict):
        raise JsonRejected("the text is not a JSON object")
    return value
