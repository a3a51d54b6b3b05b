"""JSON Schemas (Draft 2020-12) that come from outside: bounded, closed, and used to validate."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pydantic import JsonValue

MAX_SCHEMA = 64 * 1024
"""Bytes of one schema."""
_MAX_NODES = 2000


class SchemaRefused(ValueError):
    """The schema is not one that may be used; `path` leads into it."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def check_schema(schema: JsonValue) -> None:
    """Raise SchemaRefused unless this is a valid schema of bounded size without remote or recursive references."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, dict):
        raise SchemaRefused("must be a JSON Schema (a mapping)")
    if len(json.dumps(schema)) > MAX_SCHEMA:
        raise SchemaRefused(f"must have at most {MAX_SCHEMA} bytes")
    for count, (path, name, value) in enumerate(_walk(schema, "")):
        if count >= _MAX_NODES:
            raise SchemaRefused(f"must have at most {_MAX_NODES} values")
        if name in ("$ref", "$dynamicRef") and not (isinstance(value, str) and value.startswith("#")):
            raise SchemaRefused("references may only point into the same schema (`#/…`)", path)
        if name == "$schema" and value != "https://json-schema.org/draft/2020-12/schema":
            raise SchemaRefused("only Draft 2020-12 is known", path)
        if name in ("$id", "$vocabulary"):
            raise SchemaRefused("is not allowed in an embedded schema", path)
        if name == "patternProperties":
            raise SchemaRefused("is not supported; use properties, propertyNames or additionalProperties", path)
        if name == "pattern" and isinstance(value, str) and not _compiles(value):
            raise SchemaRefused("must be a regular expression without back-references and look-around", path)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise SchemaRefused(error.message, _path(error.absolute_path)) from error
    try:
        violations(json.dumps(schema), {})
    except RecursionError as error:
        raise SchemaRefused("refers to itself without end") from error


def violations(schema_text: str, value: JsonValue, most: int = 20) -> list[tuple[str, str]]:
    """What is wrong with a value: pairs of path (`items[0].price`) and message. `schema_text` is the schema's JSON."""
    found: list[tuple[str, str]] = []
    for error in _validator(schema_text).iter_errors(value):
        found.append((_path(error.absolute_path), _short(error.message)))
        if len(found) == most:
            break
    return found


@lru_cache(maxsize=512)
def _validator(schema_text: str) -> Any:  # jsonschema's validators are made at run time and have no static type
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry

    linear = validators.extend(Draft202012Validator, {"pattern": _pattern})
    # An empty registry: nothing is ever fetched.
    return linear(json.loads(schema_text), registry=Registry())


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    """`pattern` on CEL's regular expressions, which take linear time on whatever input."""
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _matches(pattern: str, text: str) -> bool:
    import cel

    return bool(cel.compile("text.matches(pattern)").execute({"text": text, "pattern": pattern}))


def _compiles(pattern: str) -> bool:
    try:
        _matches(pattern, "")
    except (ValueError, TypeError, RuntimeError):
        return False
    return True


def _walk(value: JsonValue, path: str) -> Iterator[tuple[str, str, JsonValue]]:
    if isinstance(value, dict):
        for name, item in value.items():
            below = f"{path}.{name}" if path else name
            yield below, name, item
            yield from _walk(item, below)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]")


def _path(parts: Any) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _short(message: str) -> str:
    return message if len(message) <= 300 else message[:300] + "…"
