"""Schemas of an OpenAPI document as JSON Schema: references point into `$defs`, old keywords are new ones."""

from collections.abc import Mapping
from typing import Any, cast

from slipway_tools.errors import InvalidTool

_PREFIX = "#/components/schemas/"
_DEFS = "#/$defs/"
# OpenAPI's own keywords, which say nothing about a value.
_IGNORED = frozenset({"discriminator", "xml", "externalDocs", "example", "readOnly", "writeOnly", "nullable"})
_MOST_STEPS = 16


class Components:
    """The named parts of a document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def resolved(self, part: Any) -> dict[str, Any]:
        """A part, or the part that it refers to; raises InvalidTool."""
        for _ in range(_MOST_STEPS):
            if not isinstance(part, dict):
                raise InvalidTool("holds a part that is no object", field="document")
            fields = cast("dict[str, Any]", part)
            reference = fields.get("$ref")
            if reference is None:
                return fields
            part = self._at(str(reference))
        raise InvalidTool("holds references that lead in a circle", field="document")

    def _at(self, reference: str) -> Any:
        if not reference.startswith("#/"):
            raise InvalidTool(f"refers to another document: {reference[:100]}", field="document")
        part: Any = self._document
        for encoded in reference[2:].split("/"):
            step = encoded.replace("~1", "/").replace("~0", "~")
            if not isinstance(part, dict) or step not in part:
                raise InvalidTool(f"refers to nothing at {reference[:100]}", field="document")
            part = cast("dict[str, Any]", part)[step]
        return part

    def converted(self, schema: Any) -> Any:
        """A schema in Draft 2020-12, with references into `$defs`; raises InvalidTool."""
        if isinstance(schema, list):
            return [self.converted(item) for item in cast("list[Any]", schema)]
        if not isinstance(schema, dict):
            return schema
        source = cast("dict[str, Any]", schema)
        made: dict[str, Any] = {}
        for key, value in source.items():
            if key in _IGNORED or key.startswith("x-"):
                continue
            if key == "$ref":
                made[key] = self._reference(str(value))
            elif key in ("enum", "const", "default", "examples"):
                made[key] = value
            elif key in ("properties", "patternProperties", "$defs") and isinstance(value, dict):
                named = cast("dict[str, Any]", value)
                made[key] = {name: self.converted(item) for name, item in named.items()}
            else:
                made[key] = self.converted(value)
        return _modern(made, nullable=source.get("nullable") is True)

    def _reference(self, reference: str) -> str:
        if not reference.startswith(_PREFIX) or "/" in reference.removeprefix(_PREFIX):
            raise InvalidTool(f"a schema refers to {reference[:100]}, not to one of the components", field="document")
        self._at(reference)
        return _DEFS + reference.removeprefix(_PREFIX)

    def closed(self, schema: Any) -> Any:
        """The schema with all components that it needs, and no others, in its `$defs`."""
        needed: dict[str, Any] = {}
        waiting = _references(schema)
        while waiting:
            encoded = waiting.pop()
            name = encoded.replace("~1", "/").replace("~0", "~")
            if name not in needed:
                needed[name] = self.converted(self._at(_PREFIX + encoded))
                waiting += _references(needed[name])
        if not needed or not isinstance(schema, dict):
            return schema
        return {**cast("dict[str, Any]", schema), "$defs": dict(sorted(needed.items()))}


def _references(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for item in cast("list[Any]", schema) for name in _references(item)]
    if not isinstance(schema, dict):
        return []
    found: list[str] = []
    for key, value in cast("dict[str, Any]", schema).items():
        if key == "$ref" and isinstance(value, str):
            found.append(value.removeprefix(_DEFS))
        elif key not in ("enum", "const", "default", "examples"):
            found += _references(value)
    return found


def _modern(schema: dict[str, Any], *, nullable: bool) -> dict[str, Any]:
    """OpenAPI 3.0's `nullable` and boolean `exclusiveMinimum` as JSON Schema has them today."""
    for bound in ("Minimum", "Maximum"):
        exclusive = f"exclusive{bound}"
        if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and bound.lower() in schema:
            schema[exclusive] = schema.pop(bound.lower())
    if not nullable:
        return schema
    if isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
        return schema
    return {"anyOf": [schema, {"type": "null"}]}
