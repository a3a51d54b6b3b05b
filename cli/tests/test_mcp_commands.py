"""Connecting MCP servers and pinning their tools from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slipway_testkit.scripted_server import ScriptedServer, answers
from typer.testing import Result

Slipway = Callable[..., Result]
TOOL: dict[str, Any] = {"tool": "crm.find", "kind": "mcp", "version": 1, "side_effect": "write"}


def offered(name: str, state: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "digest": f"sha256:{name}", "diff": f"+name: {name}", **fields}


def listing(*tools: dict[str, Any], fault: str | None = None) -> Any:
    return answers({"tools": list(tools), "protocol_version": "2026-07-28", "fault": fault})


def test_a_server_is_connected_by_its_address_or_a_file(
    slipway: Slipway, gateway: ScriptedServer, tmp_path: Path
) -> None:
    gateway.then(*[answers({"server": "crm", "proposer": "alice"})] * 2)
    assert slipway("mcp", "connect", "crm", "https://mcp.example/mcp").exit_code == 0
    file = tmp_path / "crm.yaml"
    file.write_text("stdio: {command: [python, server.py]}\nside_effect: read\n")
    assert slipway("mcp", "connect", "crm", "--file", str(file)).exit_code == 0
    assert [(asked.method, asked.path, json.loads(asked.body)) for asked in gateway.asked] == [
        ("PUT", "/v1/mcp-servers/crm", {"http": {"url": "https://mcp.example/mcp"}}),
        ("PUT", "/v1/mcp-servers/crm", {"stdio": {"command": ["python", "server.py"]}, "side_effect": "read"}),
    ]
    assert slipway("mcp", "connect", "crm").exit_code == 2


def test_what_waits_is_shown_as_a_diff_and_pinned_as_it_was_shown(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(
        listing(
            offered("find", "NEW"), offered("drop", "CHANGED"), offered("old", "APPROVED"), offered("x", "INVALID")
        ),
        answers({"tools": [TOOL]}),
    )
    done = slipway("tools", "pin", "crm", "--yes", "--json")
    assert done.exit_code == 0
    assert "NEW find" in done.stderr
    assert "+name: drop" in done.stderr
    assert [tool["tool"] for tool in json.loads(done.stdout)["tools"]] == ["crm.find"]
    asked = gateway.asked[1]
    assert (asked.method, asked.path) == ("POST", "/v1/mcp-servers/crm/approve")
    assert json.loads(asked.body) == {
        "tools": [
            {"name": "find", "digest": "sha256:find", "side_effect": None},
            {"name": "drop", "digest": "sha256:drop", "side_effect": None},
        ]
    }


def test_nothing_is_pinned_without_a_yes(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(listing(offered("find", "NEW")))
    assert slipway("tools", "pin", "crm", "find").exit_code == 1
    assert len(gateway.asked) == 1


@pytest.mark.parametrize(
    ("tools", "fault", "exit_code"),
    [(["nowhere"], None, 2), ([], None, 2), ([], "TIMEOUT: No answer", 1)],
)
def test_there_must_be_something_to_pin(
    slipway: Slipway, gateway: ScriptedServer, tools: list[str], fault: str | None, exit_code: int
) -> None:
    gateway.then(listing(offered("old", "APPROVED"), fault=fault))
    assert slipway("tools", "pin", "crm", "--yes", *tools).exit_code == exit_code


def test_a_server_that_does_not_answer_is_6(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(listing(fault="UNREACHABLE: no connection"))
    done = slipway("mcp", "tools", "crm")
    assert done.exit_code == 6
    assert "UNREACHABLE" in done.stderr


def test_servers_are_listed_and_removed(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers({"servers": [{"server": "crm", "proposer": "alice"}]}), answers(b"", 204))
    assert "alice" in slipway("mcp", "list").stdout
    assert slipway("mcp", "remove", "crm").exit_code == 0
    assert gateway.asked[1].method == "DELETE"


def test_operations_of_a_document_are_imported(slipway: Slipway, gateway: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "api.yaml"
    file.write_text("openapi: 3.1.0\npaths: {}\n")
    gateway.then(answers({"tools": [TOOL]}))
    done = slipway("tools", "import", "crm", str(file), "--operation", "find", "--header", "Authorization: secret:crm")
    assert done.exit_code == 0
    sent = json.loads(gateway.asked[0].body)
    assert (sent["document"]["openapi"], sent["prefix"], sent["operations"]) == ("3.1.0", "crm", ["find"])
    assert sent["headers"] == {"Authorization": "secret:crm"}
    assert slipway("tools", "import", "crm", str(file), "--header", "nonsense").exit_code == 2


def test_policy_and_versions_of_a_tool_are_shown(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(
        answers({"tool": TOOL, "allowed": True, "approval_required": True, "policies": ["tainted"]}),
        answers({"tools": [TOOL], "next_page_token": None}),
        answers({"output": 1}),
    )
    shown = json.loads(slipway("tools", "policy", "crm.find", "--tainted", "--json").stdout)
    assert shown["approval_required"]
    assert gateway.asked[0].path == "/v1/tools/crm.find/policy?arguments_tainted=true"
    assert slipway("tools", "versions", "crm.find").exit_code == 0
    assert slipway("tools", "invoke", "crm.find", "--tainted").exit_code == 0
    assert json.loads(gateway.asked[2].body)["arguments_tainted"]
