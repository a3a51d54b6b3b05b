"""Strict JSON: what is approved, digested and sent must have one reading only."""

import json
import math
from typing import Any, NoReturn

from slipway_chassis.errors import InvalidArgument


class InvalidJson(InvalidArgument):
    """The text is not JSON, is too long, or reads differently from parser to parser."""

    reason = "INVALID_JSON"


def parse(text: str, *, field: str, limit: int) -> Any:
    """Parse JSON text of at most `limit` bytes.

    Raises:
        InvalidJson: not JSON; NaN, infinities or numbers too large for a double; the same name twice in an object;
            half a surrogate pair; nested too deeply.
    """
    if len(text.encode("utf-8", "surrogatepass")) > limit:
        raise InvalidJson(f"must be at most {limit} bytes", field=field)
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)
        compact(value).encode()
    except RecursionError as error:
        raise InvalidJson("is nested too deeply", field=field) from error
    except UnicodeEncodeError as error:
        raise InvalidJson("holds half a surrogate pair", field=field) from error
    except ValueError as error:
        raise InvalidJson(f"is not JSON: {error}", field=field) from error
    return value


def compact(value: Any) -> str:
    """JSON text without needless spaces."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:64]!r} stands twice in one object")
            seen.add(name)
    return found
