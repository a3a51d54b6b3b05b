"""Tools and MCP servers over HTTP: what the tools service is asked, and how its answers look."""

import json
from typing import Any

import pytest
from slipway.tools.v1 import tools_pb2 as pb
from slipway_chassis.errors import FieldViolation, InvalidArgument

TOOL = pb.Tool(
    tool="crm.find",
    kind="mcp",
    description="Finds",
    input_schema_json='{"type":"object"}',
    side_effect=pb.SIDE_EFFECT_WRITE,
    untrusted_output=True,
    egress=True,
    version=2,
    quarantine="its definition changed",
    mcp=pb.McpToolSource(server="crm", tool="find", digest="sha256:a", approver="bob"),
)


def test_a_tool_is_shown_with_what_it_may_do_and_where_it_comes_from(alice: Any, services: Any) -> None:
    services.on("GetTool", lambda call: pb.GetToolResponse(tool=TOOL))
    shown = alice.get("/v1/tools/crm.find", params={"version": 2}).json()
    assert services.last("GetTool").request == pb.GetToolRequest(tool="crm.find", version=2)
    assert (shown["side_effect"], shown["egress"], shown["untrusted_output"]) == ("write", True, True)
    assert (shown["version"], shown["quarantine"]) == (2, "its definition changed")
    assert shown["mcp"] == {"server": "crm", "tool": "find", "digest": "sha256:a", "approver": "bob"}
    assert (shown["http"], shown["python"], shown["shell"]) == (None, None, None)


@pytest.mark.parametrize(
    ("body", "made"),
    [
        (
            {"python": {"code": "def main(): pass", "timeout_seconds": 1.5}},
            {
                "python": pb.PythonTool(
                    code="def main(): pass", function="main", timeout={"seconds": 1, "nanos": 500000000}
                )
            },
        ),
        (
            {"shell": {"command": ["wc", "{text}"], "stdin_argument": "text", "json_output": True}},
            {"shell": pb.ShellTool(command=["wc", "{text}"], stdin_argument="text", json_output=True)},
        ),
        (
            {
                "http": {
                    "url": "https://a.example/",
                    "query_arguments": ["q"],
                    "header_arguments": {"h": "X-H"},
                    "body_argument": "b",
                },
                "side_effect": "destructive",
                "trusted_output": True,
            },
            {
                "http": pb.HttpTool(
                    method="POST",
                    url="https://a.example/",
                    query_arguments=["q"],
                    header_arguments={"h": "X-H"},
                    body_argument="b",
                ),
                "side_effect": pb.SIDE_EFFECT_DESTRUCTIVE,
                "trusted_output": True,
            },
        ),
    ],
    ids=["python", "shell", "http"],
)
def test_every_kind_of_tool_is_declared_as_it_was_sent(
    alice: Any, services: Any, body: dict[str, Any], made: dict[str, Any]
) -> None:
    services.on("PutTool", lambda call: pb.PutToolResponse(tool=TOOL, created=True))
    sent = {"description": "A tool", "input_schema": {"type": "object"}, **body}
    assert alice.put("/v1/tools/t", json=sent).status_code == 201
    assert services.last("PutTool").request == pb.PutToolRequest(
        tool="t", description="A tool", input_schema_json='{"type":"object"}', **made
    )


def test_versions_policy_and_taint_are_asked_for(alice: Any, services: Any) -> None:
    services.on("ListToolVersions", lambda call: pb.ListToolVersionsResponse(tools=[TOOL], next_page_token="n"))
    page = alice.get("/v1/tools/crm.find/versions", params={"page_size": 1}).json()
    assert ([tool["version"] for tool in page["tools"]], page["next_page_token"]) == ([2], "n")
    services.on(
        "DescribeTool",
        lambda call: pb.DescribeToolResponse(
            tool=TOOL, allowed=True, approval_required=True, policies=["p"], policy_digest="sha256:b"
        ),
    )
    policy = alice.get("/v1/tools/crm.find/policy", params={"arguments_tainted": "true"}).json()
    assert services.last("DescribeTool").request.arguments_tainted
    assert (policy["allowed"], policy["approval_required"], policy["policies"]) == (True, True, ["p"])
    services.on(
        "InvokeTool",
        lambda call: pb.InvokeToolResponse(
            output_json="1",
            output_tainted=True,
            version=2,
            files=[pb.ToolFile(name="plot.png", file_id="file_1", content_type="image/png", size_bytes=7)],
            usage=pb.SandboxUsage(cpu_ms=3),
            session=pb.SandboxSession(session="s", created=True),
            error=pb.ToolError(code="TIMEOUT", limit="wall_time"),
        ),
    )
    result = alice.post("/v1/tools/crm.find/invoke", json={"arguments_tainted": True, "version": 2}).json()
    asked = services.last("InvokeTool").request
    assert (asked.arguments_tainted, asked.version) == (True, 2)
    assert (result["output_tainted"], result["version"], result["error"]["limit"]) == (True, 2, "wall_time")
    assert (result["files"][0]["file_id"], result["usage"]["cpu_ms"], result["session"]["created"]) == (
        "file_1",
        3,
        True,
    )


def test_a_document_is_imported(alice: Any, services: Any) -> None:
    services.on("ImportOpenApi", lambda call: pb.ImportOpenApiResponse(tools=[TOOL]))
    answer = alice.post(
        "/v1/tools/import", json={"document": {"openapi": "3.1.0"}, "prefix": "crm", "operations": ["a"]}
    )
    assert (answer.status_code, [tool["tool"] for tool in answer.json()["tools"]]) == (201, ["crm.find"])
    asked = services.last("ImportOpenApi").request
    assert (asked.document_json, asked.prefix, list(asked.operations)) == ('{"openapi":"3.1.0"}', "crm", ["a"])


SERVER = pb.McpServer(
    server="crm",
    digest="sha256:c",
    proposer="alice",
    connection=pb.McpConnection(
        http=pb.McpHttp(
            url="https://mcp.example/mcp",
            headers={"X-Key": "secret:crm"},
            oauth=pb.McpOAuth(
                client_id="id",
                client_secret="secret:s",
                issuer="https://i.example",
                scopes=["a"],
                grant=pb.MCP_O_AUTH_GRANT_AUTHORIZATION_CODE,
                per_user=True,
                audiences=["api://crm"],
            ),
        ),
        regions=["eu"],
        timeout={"seconds": 7},
        side_effect=pb.SIDE_EFFECT_READ,
    ),
)


def test_an_mcp_server_is_connected_shown_and_disconnected(alice: Any, services: Any) -> None:
    services.on("PutMcpServer", lambda call: pb.PutMcpServerResponse(server=SERVER, created=True))
    body = {
        "http": {
            "url": "https://mcp.example/mcp",
            "headers": {"X-Key": "secret:crm"},
            "oauth": {
                "client_id": "id",
                "client_secret": "secret:s",
                "issuer": "https://i.example",
                "scopes": ["a"],
                "grant": "authorization_code",
                "per_user": True,
                "audiences": ["api://crm"],
            },
        },
        "regions": ["eu"],
        "timeout_seconds": 7,
        "side_effect": "read",
    }
    answer = alice.put("/v1/mcp-servers/crm", json=body, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 201
    asked = services.last("PutMcpServer").request
    assert (asked.server, asked.connection, asked.request_id) == ("crm", SERVER.connection, "k")
    assert {name: answer.json()[name] for name in body} == body
    assert (answer.json()["stdio"], answer.json()["proposer"]) == (None, "alice")

    services.on("GetMcpServer", lambda call: pb.GetMcpServerResponse(server=SERVER))
    assert alice.get("/v1/mcp-servers/crm").json()["digest"] == "sha256:c"
    services.on("ListMcpServers", lambda call: pb.ListMcpServersResponse(servers=[SERVER]))
    assert [server["server"] for server in alice.get("/v1/mcp-servers").json()["servers"]] == ["crm"]
    services.on("DeleteMcpServer", lambda call: pb.DeleteMcpServerResponse())
    assert alice.delete("/v1/mcp-servers/crm").status_code == 204


def test_a_program_is_connected_as_an_mcp_server(alice: Any, services: Any) -> None:
    stdio = {"command": ["python", "server.py"], "files": {"server.py": "print()"}, "environment": {"A": "b"}}
    connected = pb.McpServer(server="local", connection=pb.McpConnection(stdio=pb.McpStdio(**stdio)))
    services.on("PutMcpServer", lambda call: pb.PutMcpServerResponse(server=connected))
    answer = alice.put("/v1/mcp-servers/local", json={"stdio": stdio})
    assert (answer.status_code, answer.json()["stdio"], answer.json()["http"]) == (200, stdio, None)
    assert services.last("PutMcpServer").request.connection.side_effect == pb.SIDE_EFFECT_WRITE


def test_what_a_server_offers_is_listed_and_approved_as_it_was_shown(alice: Any, services: Any) -> None:
    services.on(
        "ListMcpServerTools",
        lambda call: pb.ListMcpServerToolsResponse(
            tools=[
                pb.McpServerTool(
                    tool="crm.find",
                    name="find",
                    state=pb.MCP_TOOL_STATE_CHANGED,
                    digest="sha256:new",
                    approved_digest="sha256:old",
                    definition_json='{"name":"find"}',
                    diff="-a\n+b",
                    approver="bob",
                )
            ],
            protocol_version="2026-07-28",
        ),
    )
    listing = alice.get("/v1/mcp-servers/crm/tools").json()
    assert (listing["protocol_version"], listing["fault"]) == ("2026-07-28", None)
    [offered] = listing["tools"]
    assert (offered["state"], offered["definition"], offered["diff"]) == ("CHANGED", {"name": "find"}, "-a\n+b")
    services.on("ApproveMcpTools", lambda call: pb.ApproveMcpToolsResponse(tools=[TOOL]))
    pins = [{"name": "find", "digest": offered["digest"], "side_effect": "read"}]
    answer = alice.post("/v1/mcp-servers/crm/approve", json={"tools": pins})
    assert [tool["tool"] for tool in answer.json()["tools"]] == ["crm.find"]
    asked = services.last("ApproveMcpTools").request
    assert asked.tools[0] == pb.McpToolPin(name="find", digest="sha256:new", side_effect=pb.SIDE_EFFECT_READ)


def test_what_is_wrong_with_a_connection_is_named_as_it_was_sent(alice: Any, services: Any) -> None:
    def refuse(call: Any) -> Any:
        raise InvalidArgument("wrong", violations=[FieldViolation("connection.http.url", "must be https://")])

    services.on("PutMcpServer", refuse)
    problem = alice.put("/v1/mcp-servers/crm", json={"http": {"url": "http://x"}})
    assert (problem.status_code, problem.json()["field"]) == (422, "http.url")
    assert json.dumps(problem.json()).count("connection.") == 0
