"""OpenAPI documents whose operations become tools."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slipway.tools.v1 import tools_pb2 as pb
from slipway_chassis.errors import SlipwayError
from slipway_tools import openapi
from slipway_tools.errors import InvalidTool
from slipway_tools.jsontext import InvalidJson

ORDER = {
    "type": "object",
    "required": ["sku"],
    "properties": {
        "sku": {"type": "string", "example": "A-1"},
        "note": {"type": "string", "nullable": True},
        "count": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
        "parent": {"$ref": "#/components/schemas/Order"},
        "state": {"$ref": "#/components/schemas/State"},
    },
}


def document(url: str, **changes: Any) -> dict[str, Any]:
    return {
        "openapi": "3.0.3",
        "info": {"title": "Orders", "version": "1"},
        "servers": [{"url": f"{url}/api/"}],
        "paths": {
            "/orders/{order-id}": {
                "parameters": [{"$ref": "#/components/parameters/OrderId"}],
                "get": {
                    "operationId": "getOrder",
                    "summary": "One order",
                    "description": "With its state.",
                    "parameters": [
                        {"name": "expand", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                        {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                        {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                        {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                    ],
                    "responses": {
                        "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}},
                        "404": {"content": {"application/json": {"schema": {"type": "string"}}}},
                    },
                },
                "delete": {"operationId": "deleteOrder", "responses": {"204": {"description": "gone"}}},
            },
            "/orders": {
                "post": {
                    "operationId": "createOrder",
                    "parameters": [{"name": "dry_run", "in": "query", "schema": {"type": "boolean"}}],
                    "requestBody": {"$ref": "#/components/requestBodies/Order"},
                    "responses": {"201": {"description": "made"}},
                }
            },
        },
        "components": {
            "parameters": {
                "OrderId": {"name": "order-id", "in": "path", "required": True, "schema": {"type": "string"}}
            },
            "requestBodies": {
                "Order": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}},
                }
            },
            "schemas": {"Order": ORDER, "State": {"type": "string", "enum": ["open", "shut"]}, "Unused": {}},
        },
        **changes,
    }


async def load(client: Any, content: dict[str, Any], prefix: str = "shop", **fields: Any) -> dict[str, pb.Tool]:
    request = pb.ImportOpenApiRequest(document_json=json.dumps(content), prefix=prefix, **fields)
    tools = (await client.call("ImportOpenApi", request)).tools
    return {tool.tool.removeprefix(f"{prefix}."): tool for tool in tools}


async def refused(client: Any, content: dict[str, Any], **fields: Any) -> SlipwayError:
    with pytest.raises(SlipwayError) as caught:
        await load(client, content, **fields)
    return caught.value


async def test_each_operation_becomes_a_tool_with_its_own_schemas(alice: Any, target: Any, unique: Any) -> None:
    tools = await load(alice, document(target.url), unique("shop"), headers={"X-Key": "secret:ledger-token"})
    assert list(tools) == ["get_order", "delete_order", "create_order"]
    get = tools["get_order"]
    assert get.description == "One order\n\nWith its state."
    schema = json.loads(get.input_schema_json)
    assert sorted(schema["properties"]) == ["X_Trace", "expand", "order_id"]
    assert (schema["required"], schema["additionalProperties"]) == (["order_id"], False)
    output = json.loads(get.output_schema_json)
    assert output["$ref"] == "#/$defs/Order"
    assert sorted(output["$defs"]) == ["Order", "State"]
    assert output["$defs"]["Order"]["properties"]["note"] == {"type": ["string", "null"]}
    assert output["$defs"]["Order"]["properties"]["count"] == {"type": "integer", "exclusiveMinimum": 0}
    effects = {name: (tool.side_effect, tool.idempotent) for name, tool in tools.items()}
    assert effects == {
        "get_order": (pb.SIDE_EFFECT_READ, True),
        "delete_order": (pb.SIDE_EFFECT_DESTRUCTIVE, True),
        "create_order": (pb.SIDE_EFFECT_WRITE, False),
    }
    assert all(tool.http.headers == {"X-Key": "secret:ledger-token"} for tool in tools.values())


async def test_arguments_go_where_the_document_puts_them(alice: Any, target: Any, unique: Any, say: Any) -> None:
    prefix = unique("shop")
    await load(alice, document(target.url), prefix)
    path = f"/api/orders/{prefix}"
    target.answers[path] = say(200, json.dumps({"sku": "A", "state": "open"}).encode())
    arguments = {"order_id": prefix, "expand": ["lines", "payer"], "X_Trace": "t-1"}
    answer = await alice.invoke(f"{prefix}.get_order", arguments)
    assert json.loads(answer.output_json) == {"sku": "A", "state": "open"}
    [request] = target.to(path)
    assert (request.method, request.path) == ("GET", f"{path}?expand=lines&expand=payer")
    assert request.headers["x-trace"] == "t-1"

    target.answers["/api/orders"] = say(201, b"null")
    await alice.invoke(f"{prefix}.create_order", {"dry_run": True, "body": {"sku": prefix}})
    request = target.to("/api/orders")[-1]
    assert (request.path, json.loads(request.body)) == ("/api/orders?dry_run=true", {"sku": prefix})
    with pytest.raises(SlipwayError) as wrong:
        await alice.invoke(f"{prefix}.create_order", {"body": {"sku": 7}})
    assert wrong.value.violations[0].field == "/body/sku"

    target.answers[path] = say(200, b'{"sku": "A", "state": "lost"}')
    assert (await alice.invoke(f"{prefix}.get_order", {"order_id": prefix})).error.code == "INVALID_RESULT"


async def test_only_the_operations_named_are_imported_and_all_or_none(alice: Any, target: Any, unique: Any) -> None:
    prefix = unique("shop")
    assert list(await load(alice, document(target.url), prefix, operations=["createOrder"])) == ["create_order"]
    error = await refused(alice, document(target.url), prefix=prefix, operations=["createOrder", "none"])
    assert (error.reason, error.field) == ("INVALID_TOOL", "operations")
    content = document(target.url)
    content["paths"]["/orders"]["post"]["requestBody"] = {"content": {"application/xml": {}}}
    error = await refused(alice, content, prefix=prefix)
    assert "not JSON" in error.message
    with pytest.raises(SlipwayError) as missing:
        await alice.call("GetTool", pb.GetToolRequest(tool=f"{prefix}.get_order"))
    assert missing.value.reason == "TOOL_NOT_FOUND"


async def test_an_import_needs_the_permission_to_declare(client: Any, target: Any, unique: Any) -> None:
    operator = client(subject="olga", roles=["operator"])
    assert (await refused(operator, document(target.url), prefix=unique("shop"))).reason == "POLICY_DENIED"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"openapi": "2.0"}, "version 3.0 or 3.1"),
        ({"paths": {}}, "1 to 200 operations"),
        ({"paths": {"/a": {"$ref": "https://169.254.169.254/paths.json"}}}, "refers to another document"),
        ({"paths": {"/a": {"$ref": "#/paths/~1a"}}}, "in a circle"),
        ({"paths": {"/a": {"get": {"parameters": [{"$ref": "#/nowhere"}]}}}}, "refers to nothing"),
        ({"paths": {"/a": {"get": {"parameters": [{"name": "q", "in": "query"}]}}}}, "has no schema"),
        ({"paths": {"/a/{id}": {"get": {}}}}, "must be a required argument"),
        ({"paths": {"/a": {"get": {"operationId": "x"}, "put": {"operationId": "X"}}}}, "two operations would be"),
        ({"paths": {"/a": {"get": 7}}}, "must be an object"),
        ({"servers": [{"url": "/relative"}]}, "names no whole address"),
        ({"servers": [{"url": "http://192.0.2.1/"}]}, "must be https://"),
        ({"servers": [{"url": "https://{region}.example.com"}]}, "names no whole address"),
    ],
)
async def test_what_no_tool_can_express_is_refused(alice: Any, target: Any, changes: dict[str, Any], told: str) -> None:
    error = await refused(alice, document(target.url, **changes))
    assert error.reason == "INVALID_TOOL"
    assert told in error.message + " ".join(violation.message for violation in error.violations)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["$ref", "get", "post", "parameters", "name", "in", "schema", "requestBody", "content", "responses", "200",
             "application/json", "properties", "type", "enum", "required", "nullable", "exclusiveMinimum", "servers",
             "url", "operationId"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(paths=st.dictionaries(st.sampled_from(["/a", "/b/{id}"]), JSON, max_size=2), schemas=JSON)
def test_whatever_a_document_holds_it_is_imported_or_refused_as_a_document(paths: Any, schemas: Any) -> None:
    content = {
        "openapi": "3.1.0",
        "servers": [{"url": "https://a.example"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }
    wanted = openapi.Import(json.dumps(content), "p", [], "", {}, [], 30.0, trusted_output=False)
    with contextlib.suppress(InvalidTool, InvalidJson):
        assert openapi.declarations(wanted)
