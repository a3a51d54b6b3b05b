"""What a JSON Schema tells of the values under it: which members exist, and a sample to try expressions on."""

from collections.abc import Mapping

from pydantic import JsonValue

from slipway_orchestrator.expressions.references import Path

Schema = JsonValue


class Unknown(Exception):
    """The schema does not tell."""


class Missing(Exception):
    """The schema rules the member out; the message says which."""


def follow(schema: Schema, path: Path) -> Schema:
    """The schema of the value at `path`. Raises Unknown or Missing."""
    current = schema
    for key in path:
        if not isinstance(current, Mapping):
            raise Unknown
        current = _member(current, key)
    return current


def _member(schema: Mapping[str, JsonValue], key: str | int) -> Schema:
    kind = schema.get("type")
    if isinstance(key, int):
        if kind in (None, "array"):
            items = schema.get("items")
            if isinstance(items, Mapping) and "prefixItems" not in schema:
                return items
            raise Unknown
        raise Missing(f"it is no array, but {_named(kind)}")
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    if isinstance(kind, str) and kind != "object":
        raise Missing(f"it is no object, but {_named(kind)}")
    if any(word in schema for word in ("patternProperties", "$ref", "allOf", "anyOf", "oneOf", "if")):
        raise Unknown
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        return extra
    if extra is True or not isinstance(properties, Mapping):
        raise Unknown
    known = ", ".join(sorted(properties)) or "none"
    raise Missing(f"the schema has no such property (it has: {known})")


def _named(kind: JsonValue) -> str:
    return " or ".join(str(one) for one in kind) if isinstance(kind, list) else str(kind)


_SAMPLES: Mapping[JsonValue, JsonValue] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "null": None}


def sample(schema: Schema) -> JsonValue:
    """A value that the schema allows in type and members. Raises Unknown where the type is open."""
    if not isinstance(schema, Mapping):
        raise Unknown
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    options, kind = schema.get("enum"), schema.get("type")
    if isinstance(options, list) and options:
        return options[0]
    if kind == "object":
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            raise Unknown
        return {name: sample(member) for name, member in properties.items()}
    if kind == "array":
        return [sample(schema.get("items"))]
    if isinstance(kind, str) and kind in _SAMPLES:
        return _SAMPLES[kind]
    raise Unknown


def as_declared(schema: Schema, value: JsonValue) -> JsonValue:
    """The value with numbers as fractions wherever the schema says `number`, also where JSON wrote 50 for 50.0."""
    if not isinstance(schema, Mapping):
        return value
    if schema.get("type") == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    properties, items = schema.get("properties"), schema.get("items")
    if isinstance(value, dict) and isinstance(properties, Mapping):
        return {name: as_declared(properties.get(name), item) for name, item in value.items()}
    if isinstance(value, list) and isinstance(items, Mapping):
        return [as_declared(items, item) for item in value]
    return value
