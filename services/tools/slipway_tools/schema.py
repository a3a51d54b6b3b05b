"""JSON Schema, Draft 2020-12, closed to the outside: nothing is fetched, and no pattern can hold the process.

Patterns run on RE2, in time linear to the text; Python's own expressions can take for ever on forty characters.
"""

import functools
import json
from collections.abc import Iterator
from typing import Any, cast

import re2
from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import SchemaError
from referencing import Registry
from slipway_chassis.errors import FieldViolation

from slipway_tools import jsontext
from slipway_tools.errors import InvalidTool

SCHEMA_LIMIT = 64 * 1024
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# What most MCP servers declare. Where the two differ (`items` as a list, `dependencies`), a schema is refused.
_DRAFT_7 = ("http://json-schema.org/draft-07/schema#", "http://json-schema.org/draft-07/schema")
_MOST_VIOLATIONS = 20
_REFERENCES = ("$ref", "$dynamicRef")


@functools.lru_cache(maxsize=512)
def _pattern(text: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(text, options)


def _check_pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _pattern(pattern).search(instance):
        yield ValidationError(f"does not match the pattern {pattern}")


_Validator: Any = validators.extend(Draft202012Validator, {"pattern": _check_pattern})  # pyright: ignore[reportUnknownMemberType]


def parse_schema(text: str, *, field: str, of_object: bool) -> dict[str, Any]:
    """Parse and check a schema of a tool's arguments (`of_object`) or of its output.

    Raises:
        InvalidTool: not a schema of Draft 2020-12, or it refers to something outside of itself.
        InvalidJson: not JSON.
    """
    schema = jsontext.parse(text, field=field, limit=SCHEMA_LIMIT)
    if not isinstance(schema, dict):
        raise InvalidTool("must be a JSON object", field=field)
    schema = cast("dict[str, Any]", schema)
    dialect = schema.get("$schema", _DIALECT)
    if dialect != _DIALECT and dialect not in _DRAFT_7:
        raise InvalidTool(f"only {_DIALECT} and Draft 7 are understood", field=f"{field}/$schema")
    if of_object and schema.get("type") != "object":
        raise InvalidTool('must have "type": "object"', field=f"{field}/type")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidTool(_short(error.message), field=field + pointer(error.absolute_path)) from error
    except RecursionError as error:
        raise InvalidTool("is nested too deeply", field=field) from error
    for name, value in schema.items():
        if name != "$schema":
            _check_closed({name: value}, field)
    return schema


def _check_closed(node: Any, path: str) -> None:
    if isinstance(node, list):
        for index, item in enumerate(cast("list[Any]", node)):
            _check_closed(item, f"{path}/{index}")
    if not isinstance(node, dict):
        return
    for name, value in cast("dict[str, Any]", node).items():
        where = f"{path}/{_escape(name)}"
        if name in _REFERENCES and isinstance(value, str) and not value.startswith("#"):
            raise InvalidTool("refers to another document: copy it into $defs", field=where)
        if name == "$schema" and isinstance(value, str):
            # The validator would change over to another one, with Python's expressions.
            raise InvalidTool("may stand at the root only", field=where)
        if name == "dependencies" and isinstance(value, dict) and not path.endswith("/properties"):
            raise InvalidTool("is not supported: use dependentRequired or dependentSchemas", field=where)
        if name == "patternProperties":
            raise InvalidTool("is not supported: use propertyNames with a pattern", field=where)
        if name == "pattern" and isinstance(value, str):
            try:
                _pattern(value)
            except re2.error as error:
                raise InvalidTool(
                    f"is no RE2 pattern (no look-around, no back-references): {error}", field=where
                ) from error
        if name not in ("const", "enum", "default", "examples"):
            _check_closed(value, where)


def violations(schema: dict[str, Any], instance: Any) -> list[FieldViolation]:
    """What is wrong with `instance`, by JSON pointer into it; empty when it is valid. At most twenty."""
    # A reference to the root would make the validator change over to the dialect that stands there.
    plain = {name: value for name, value in schema.items() if name != "$schema"}
    validator = _Validator(plain, registry=Registry())
    found: list[FieldViolation] = []
    try:
        for error in validator.iter_errors(instance):
            found.append(FieldViolation(pointer(error.absolute_path) or "/", _short(error.message)))
            if len(found) == _MOST_VIOLATIONS:
                break
    except RecursionError:
        return [FieldViolation("/", "is nested too deeply")]
    except LookupError as error:  # referencing's errors: a reference to a place that the schema does not have
        return [FieldViolation("/", f"the tool's schema refers to nothing at {error.args[:1]}")]
    return sorted(found, key=lambda violation: violation.field)


def pointer(path: Any) -> str:
    """RFC 6901 JSON pointer of a path of names and indexes."""
    return "".join(f"/{_escape(str(part))}" for part in path)


def text(schema: dict[str, Any]) -> str:
    """The schema as compact JSON text, in the order in which it was written."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _short(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:199]}…"
