"""Whatever an MCP server sends, it is read or refused: properties over arbitrary JSON."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slipway_tools import jsontext
from slipway_tools.mcp import results
from slipway_tools.mcp.definition import Definition, diff
from slipway_tools.mcp.peer import RESULT_LIMIT, Reply
from slipway_tools.tool import Declaration, McpSource

# What strict JSON is not, too: NaN, infinities, half surrogate pairs, integers without bound.
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("\ud800")
WORDS = [
    "type",
    "text",
    "content",
    "isError",
    "structuredContent",
    "data",
    "mimeType",
    "resource",
    "properties",
    "$ref",
]
WORDS += ["pattern", "required", "items", "$schema", "$defs", "enum", "anyOf", "dependencies", "patternProperties"]
KEYS = st.sampled_from(WORDS) | st.text(max_size=5)
JSON = st.recursive(
    ATOMS | st.sampled_from(["text", "object", "image", "(", "#", "#/nowhere", "(?=a)"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=5)
MANY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def declaration(output_schema: dict[str, Any] | None) -> Declaration:
    source = McpSource("crm", "find", "sha256:a", "sha256:b", "bob")
    return Declaration("crm.find", "mcp", "", {"type": "object"}, output_schema, idempotent=False, mcp=source)


@MANY
@given(result=OBJECTS, schema=st.sampled_from([None, {"type": "object"}, {"required": ["text"]}, {"not": {}}]))
def test_a_result_is_strict_json_that_fits_its_schema_or_a_failure(result: Any, schema: Any) -> None:
    read = results.read(declaration(schema), Reply("2026-07-28", result))
    if read.failure is None:
        output = jsontext.parse(read.output_json, field="output", limit=RESULT_LIMIT)
        assert schema is None or "not" not in schema
        assert schema is None or isinstance(output, dict) or "type" not in schema
    else:
        assert read.output_json == ""
        assert len(read.failure.message) < 20_000


@MANY
@given(
    name=st.text(max_size=70),
    description=st.text(max_size=50),
    input_schema=OBJECTS.map(lambda made: {**made, "type": "object"}),
    output_schema=st.none() | OBJECTS,
)
def test_a_definition_has_a_fault_or_a_digest_and_a_diff_that_is_plain(
    name: str, description: str, input_schema: Any, output_schema: Any
) -> None:
    definition = Definition(name, description, input_schema, output_schema)
    shown = diff(None, definition)
    assert all(line.isprintable() for line in shown.split("\n"))
    if not definition.fault("crm"):
        assert definition.digest.startswith("sha256:")
        assert Definition(*_again(definition)).digest == definition.digest
        assert name.isascii()


def _again(definition: Definition) -> list[Any]:
    return list(json.loads(json.dumps(definition.content())).values())
