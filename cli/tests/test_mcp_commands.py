"""Connecting MCP servers and pinning their tools from the command line."""

import json
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
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


def test_servers_are_listed_with_their_logins_and_removed(slipway: Slipway, gateway: ScriptedServer) -> None:
    ends = "2030-01-02T03:04:05+00:00"
    states = [
        None,
        {"state": "NONE"},
        {"state": "VALID", "refreshable": True, "expire_time": ends},
        {"state": "VALID", "expire_time": ends},
        {"state": "LOGIN_REQUIRED"},
    ]
    servers = [{"server": f"s{n}", "proposer": "alice", "authorization": one} for n, one in enumerate(states)]
    gateway.then(answers({"servers": servers}), answers(b"", 204))
    lines = slipway("mcp", "list").stdout.splitlines()[1:]
    shown = [re.split(r"  +", line)[1] for line in lines]
    assert shown[:3] == ["takes none", "none", "valid"]
    assert shown[3].startswith("valid until 2030-01-0")
    assert shown[4] == "needs login"
    assert slipway("mcp", "remove", "crm").exit_code == 0
    assert gateway.asked[1].method == "DELETE"


LOGIN = {"authorization_url": "https://as.example/authorize?a=1", "redirect_uri": "r", "state": "s"}
GRANTED = {"state": "VALID", "authorizer": "alice"}


@pytest.mark.parametrize(
    "pasted", ["state=s&code=c%20d&iss=https%3A%2F%2Fas.example", "http://h/cb?state=s&code=c%20d"]
)
def test_a_login_is_finished_with_the_line_that_the_page_shows(
    slipway: Slipway, gateway: ScriptedServer, pasted: str
) -> None:
    gateway.then(answers(LOGIN), answers(GRANTED))
    done = slipway("mcp", "login", "crm", "--paste", "--json", typed=f"{pasted}\n")
    assert done.exit_code == 0
    assert LOGIN["authorization_url"] in done.stderr
    assert json.loads(done.stdout)["state"] == "VALID"
    began, completed = gateway.asked
    assert (began.path, json.loads(began.body)) == ("/v1/mcp-servers/crm/login", {"loopback_port": None})
    sent = json.loads(completed.body)
    assert (completed.path, sent["state"], sent["code"]) == ("/v1/mcp-servers/crm/login/complete", "s", "c d")


def test_what_is_no_line_of_the_page_is_not_sent(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers(LOGIN))
    assert slipway("mcp", "login", "crm", "--paste", typed="c0de\n").exit_code == 2
    assert len(gateway.asked) == 1


def test_a_browser_here_comes_back_to_a_port_of_this_machine(
    slipway: Slipway, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.then(answers(LOGIN), answers(GRANTED))

    def opened(address: str) -> None:
        assert address == LOGIN["authorization_url"]
        port = json.loads(gateway.asked[0].body)["loopback_port"]
        query = "state=s&code=c&iss=https%3A%2F%2Fas.example"
        come_back = partial(httpx.get, f"http://127.0.0.1:{port}/callback?{query}", trust_env=False)
        threading.Thread(target=come_back).start()

    monkeypatch.setattr("webbrowser.open", opened)
    assert slipway("mcp", "login", "crm", "--browser").exit_code == 0
    assert json.loads(gateway.asked[1].body) == {"state": "s", "code": "c", "iss": "https://as.example"}


def test_only_web_pages_are_opened(slipway: Slipway, gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    gateway.then(answers(LOGIN | {"authorization_url": "file:///etc/passwd"}))
    assert slipway("mcp", "login", "crm", "--browser").exit_code == 1
    assert opened == []


def test_logging_out_tells_whether_the_tokens_were_revoked(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers({"revoked": True}), answers({"revoked": False}))
    assert slipway("mcp", "logout", "crm").stdout == "logged out\n"
    assert "revoked nothing" in slipway("mcp", "logout", "crm").stdout
    assert gateway.asked[0].path == "/v1/mcp-servers/crm/logout"


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
