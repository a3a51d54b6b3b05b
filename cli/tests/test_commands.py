"""What commands print, and the exit codes that scripts rely on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slipway_testkit.scripted_server import ScriptedServer, answers, streams
from typer.testing import Result

Slipway = Callable[..., Result]


RUN = {
    "run_id": "run_01jdqxf2k0e3vr6m5t8w9y2b4c",
    "agent": "travel-desk",
    "version": 2,
    "state": "WAITING_APPROVAL",
    "caller": "alice",
    "create_time": "2026-11-24T12:00:00.5Z",
    "labels": {},
    "input": {"question": "[bold]how much?[/]"},
}
SLIPWAY = Path(sys.executable).with_name("slipway")


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(400, 2), (401, 3), (403, 3), (404, 4), (409, 5), (413, 2), (422, 2), (429, 6), (500, 1), (502, 6), (503, 6)],
)
def test_each_kind_of_refusal_has_its_exit_code_and_a_sentence(
    slipway: Slipway, gateway: ScriptedServer, status: int, exit_code: int
) -> None:
    problem = {"detail": "that does not work", "code": "NO", "violations": [{"field": "a.b", "message": "is wrong"}]}
    gateway.then(answers(problem, status))
    done = slipway("runs", "show", "run_1")
    assert done.exit_code == exit_code
    assert done.stdout == ""
    assert done.stderr == "slipway: that does not work [NO]\n  a.b: is wrong\n"


def test_a_gateway_that_is_not_there_is_6(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.close()
    done = slipway("runs", "list")
    assert done.exit_code == 6
    assert gateway.url in done.stderr


def test_nobody_signed_in_is_3_and_says_how(slipway: Slipway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_TOKEN")
    done = slipway("runs", "list")
    assert done.exit_code == 3
    assert done.stderr == "slipway: nobody is signed in: use --as USER, `slipway login`, or SLIPWAY_TOKEN\n"


def test_no_stack_is_3_and_says_how(slipway: Slipway, tmp_path: Path) -> None:
    done = slipway("runs", "list", "--data-dir", str(tmp_path / "none"))
    assert done.exit_code == 3
    assert "slipway up" in done.stderr


def test_login_is_remembered_by_the_next_command(
    slipway: Slipway, gateway: ScriptedServer, issuer: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLIPWAY_TOKEN")
    issuer.then(*[answers({"access_token": "of-alice", "expires_in": 300})] * 2)
    gateway.then(answers({"subject": "alice", "tenant": "acme"}))
    assert slipway("login", "--as", "alice").stdout == "signed in as alice\n"
    assert slipway("whoami").exit_code == 0
    assert gateway.asked[0].headers["authorization"] == "Bearer of-alice"


def test_a_refused_login_is_not_remembered(slipway: Slipway, issuer: ScriptedServer, data_dir: Path) -> None:
    issuer.then(answers({"error": "invalid_grant"}, 401))
    assert slipway("login", "--as", "mallory").exit_code == 3
    assert not (data_dir / "login.json").exists()


def test_a_table_has_whole_ids_and_text_as_it_is(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers({"runs": [RUN, {**RUN, "run_id": "run_02", "agent": "[red]x[/]" + "y" * 300}]}))
    done = slipway("runs", "list")
    head, first, second = done.stdout.splitlines()
    assert head.split() == ["run", "id", "agent", "version", "state", "caller", "create", "time"]
    assert first.startswith(f"{RUN['run_id']} ")
    assert "[red]x[/]" + "y" * 300 in second


def test_one_record_is_a_line_a_field(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers(RUN))
    lines = slipway("runs", "show", "run_1").stdout.splitlines()
    assert any(line.split() == ["state", "WAITING_APPROVAL"] for line in lines)
    assert any('{"question": "[bold]how much?[/]"}' in line for line in lines)
    assert not any(line.startswith("labels") for line in lines)


def test_an_empty_listing_says_so_to_people_and_is_an_empty_list_to_programs(
    slipway: Slipway, gateway: ScriptedServer
) -> None:
    gateway.then(answers({"runs": []}), answers({"runs": []}))
    assert slipway("runs", "list").stdout.strip() == "none"
    assert json.loads(slipway("runs", "list", "--json").stdout) == {"runs": []}


def test_json_holds_everything_that_the_gateway_sent(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers({**RUN, "new_field": [1]}))
    shown = json.loads(slipway("runs", "show", "run_1", "--json").stdout)
    assert shown["input"] == RUN["input"]
    assert shown["new_field"] == [1]


def test_a_limit_stops_a_listing_and_its_pages(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers({"runs": [RUN] * 3, "next_page_token": "more"}))
    done = slipway("runs", "list", "--limit", "2", "--json")
    assert len(json.loads(done.stdout)["runs"]) == 2
    assert len(gateway.asked) == 1


def event(seq: int, kind: str) -> bytes:
    body = {"seq": seq, "kind": kind, "time": "2026-11-24T12:00:00Z", "data": {"note": "[b]x[/b]"}}
    return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(body)}\n\n".encode()


@pytest.mark.parametrize(("state", "exit_code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_following_a_run_prints_its_events_and_ends_as_it_ended(
    slipway: Slipway, gateway: ScriptedServer, state: str, exit_code: int
) -> None:
    error = {"code": "STEP_FAILED", "message": "no such order", "step": "amount"} if state == "FAILED" else None
    ended = {**RUN, "state": state, "error": error, "output": {"reply": "190 euros"}}
    gateway.then(answers(RUN, 202), streams(event(1, "run.started"), event(2, f"run.{state.lower()}")), answers(ended))
    done = slipway("run", "travel-desk", "--input", '{"question": "?"}', "--label", "team=support", "--follow")
    assert done.exit_code == exit_code, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == RUN["run_id"]
    assert "run.started" in lines[1]
    assert '{"note": "[b]x[/b]"}' in lines[1]
    assert f"run.{state.lower()}" in lines[2]
    assert state in lines[3]
    if error:
        assert "in step amount: no such order (STEP_FAILED)" in lines[3]
    assert json.loads(gateway.asked[0].body) == {"input": {"question": "?"}, "labels": {"team": "support"}}


def test_followed_events_are_one_json_document_a_line(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(
        answers(RUN, 202),
        streams(event(1, "run.started"), event(2, "run.succeeded")),
        answers({**RUN, "state": "SUCCEEDED"}),
    )
    done = slipway("run", "travel-desk", "--input", "{}", "--follow", "--json")
    assert [json.loads(line)["seq"] for line in done.stdout.splitlines()] == [1, 2]


def test_an_input_is_json_or_a_file_with_json(slipway: Slipway, gateway: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"n": 1}')
    gateway.then(answers(RUN, 202))
    assert slipway("run", "a", "--input", f"@{file}").exit_code == 0
    assert json.loads(gateway.asked[0].body)["input"] == {"n": 1}
    file.write_bytes(b"\xff")
    for wrong in ("{oops", "@/no/such/file", f"@{file}"):
        done = slipway("run", "a", "--input", wrong)
        assert done.exit_code == 2
        assert "input" in done.stderr
    assert slipway("run", "a", "--input", "{}", "--label", "=x").exit_code == 2
    assert len(gateway.asked) == 1


def test_a_decision_is_bound_to_what_was_shown(slipway: Slipway, gateway: ScriptedServer) -> None:
    shown = {"approval_id": "apr_1", "run_id": "r", "state": "PENDING", "arguments_digest": "sha256:ab"}
    gateway.then(answers(shown), answers({**shown, "state": "EDITED"}))
    done = slipway("approvals", "edit", "apr_1", "--arguments", '{"amount": 90}', "--message", "too much")
    assert done.exit_code == 0, done.output
    assert json.loads(gateway.asked[1].body) == {
        "decision": "edit",
        "arguments": {"amount": 90},
        "arguments_digest": "sha256:ab",
        "message": "too much",
    }


def test_an_agent_file_is_put_under_its_own_name(slipway: Slipway, gateway: ScriptedServer, tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("metadata: {name: travel-desk}\n")
    gateway.then(answers({"agent": "travel-desk", "version": 1, "digest": "sha256:ab", "state": "DRAFT"}))
    assert slipway("agents", "apply", str(file)).exit_code == 0
    assert (gateway.asked[0].path, gateway.asked[0].body) == ("/v1/agents/travel-desk", file.read_bytes())
    for wrong in (b"[1, 2]", b"metadata: {}", b"a: [", b"\x00", b"\xff\xfe"):
        file.write_bytes(wrong)
        done = slipway("agents", "apply", str(file))
        assert done.exit_code == 2, wrong
        assert "metadata.name" in done.stderr


def test_a_tool_that_failed_is_shown_and_is_1(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers({"output": None, "error": {"code": "EXIT_STATUS", "message": "ended with 3"}}))
    done = slipway("tools", "invoke", "python", "--arguments", '{"code": "exit(3)"}')
    assert done.exit_code == 1
    assert "EXIT_STATUS" in done.stdout


def document(state: str, indexed: int) -> dict[str, object]:
    return {
        "collection": "c",
        "document": "a.md",
        "state": state,
        "chunk_count": 4,
        "indexed_chunk_count": indexed,
        "error": "no embedding model" if state == "FAILED" else None,
    }


@pytest.mark.parametrize(("state", "exit_code"), [("READY", 0), ("FAILED", 1)])
def test_adding_knowledge_makes_the_collection_and_waits_for_the_index(
    slipway: Slipway, gateway: ScriptedServer, tmp_path: Path, state: str, exit_code: int
) -> None:
    file = tmp_path / "a.md"
    file.write_text("# A\n")
    gateway.then(
        answers({"detail": "no collection c", "code": "COLLECTION_NOT_FOUND"}, 404),
        answers({"collection": "c"}),
        answers(document("INDEXING", 0), 201),
        answers(document("INDEXING", 2)),
        answers(document(state, 4)),
    )
    done = slipway("knowledge", "add", "c", str(file), "--json")
    assert done.exit_code == exit_code
    assert json.loads(done.stdout)["documents"][0]["state"] == state
    assert ("no embedding model" in done.stderr) == (state == "FAILED")
    assert gateway.is_done


def test_two_files_of_one_name_are_refused_before_anything_is_sent(
    slipway: Slipway, gateway: ScriptedServer, tmp_path: Path
) -> None:
    files = [tmp_path / folder / "a.md" for folder in ("x", "y")]
    for file in files:
        file.parent.mkdir()
        file.write_text("#")
    assert slipway("knowledge", "add", "c", *map(str, files)).exit_code == 2
    assert gateway.asked == []


def test_help_of_every_command_says_what_it_does() -> None:
    from slipway_cli.main import app
    from typer.main import get_command

    def check(name: str, command: object) -> None:
        for child, sub in getattr(command, "commands", {}).items():
            assert sub.help, f"{name} {child} has no help"
            check(f"{name} {child}", sub)

    check("slipway", get_command(app))


def test_help_needs_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; from slipway_cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'httpx', 'pydantic', 'ruamel.yaml', 'cryptography', 'asyncpg', 'asyncio'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("line", "expected"),
    [("slipway app", ["approvals"]), ("slipway agents pr", ["promote"]), ("slipway runs list --st", ["--state"])],
)
def test_the_shell_completes_commands_and_options(line: str, expected: list[str]) -> None:
    words = line.split()
    environment = {
        **os.environ,
        "_SLIPWAY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run([SLIPWAY], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected, done.stderr


def test_the_completion_script_is_for_this_command() -> None:
    environment = {**os.environ, "SHELL": "/bin/bash"}
    command = [SLIPWAY, "--show-completion", "bash"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "_SLIPWAY_COMPLETE=complete_bash" in done.stdout, done.stderr


def test_verbs_reach_their_run_and_a_bulk_cancel_its_filter(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(*[answers(RUN)] * 5, answers({"count": 2, "more": False}))
    run = RUN["run_id"]
    assert slipway("runs", "pause", str(run), "--reason", "wait").exit_code == 0
    assert slipway("runs", "signal", str(run), "paid", "--payload", '{"n": 1}').exit_code == 0
    assert slipway("runs", "limits", str(run), "--steps", "80", "--wall-time", "3d").exit_code == 0
    assert slipway("runs", "fork", str(run), "7", "--input", "null").exit_code == 0
    assert slipway("runs", "cancel", str(run), "--force").exit_code == 0
    done = slipway("runs", "cancel", "--label", "batch=7", "--state", "PAUSED", "--json")
    assert json.loads(done.stdout) == {"count": 2, "more": False}
    asked = [(one.path, json.loads(one.body)) for one in gateway.asked]
    assert asked == [
        (f"/v1/runs/{run}/pause", {"reason": "wait"}),
        (f"/v1/runs/{run}/signal", {"name": "paid", "payload": {"n": 1}}),
        (f"/v1/runs/{run}/limits", {"steps": 80, "wall_time": "3d"}),
        (f"/v1/runs/{run}/fork", {"seq": 7, "input": None}),
        (f"/v1/runs/{run}/cancel", {"reason": "", "force": True}),
        ("/v1/runs/cancel", {"states": ["PAUSED"], "labels": {"batch": "7"}, "reason": "", "force": False}),
    ]


def test_a_cancel_names_a_run_or_a_filter(slipway: Slipway, gateway: ScriptedServer) -> None:
    assert slipway("runs", "cancel").exit_code == 2
    assert slipway("runs", "cancel", "run_1", "--agent", "desk").exit_code == 2
    assert gateway.asked == []


def test_a_replay_that_differs_is_1(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers({"same": True, "events": 9}), answers({"same": False, "difference": {"seq": 3}}))
    assert slipway("runs", "replay", "run_1").exit_code == 0
    assert slipway("runs", "replay", "run_1").exit_code == 1


def test_agents_and_the_tenant_are_suspended_and_schedules_put(slipway: Slipway, gateway: ScriptedServer) -> None:
    suspended = {"scope": "TENANT", "reason": "drill", "suspended_by": "dave"}
    schedule = {"agent": "desk", "schedule": "daily", "cron": "0 7 * * *", "next_time": "2026-11-26T06:00:00Z"}
    gateway.then(
        answers({"agent": "desk", "suspension": suspended}),
        answers({"suspensions": [suspended]}),
        answers(schedule, 201),
        answers({"schedules": [schedule]}),
        answers(None, 204),
    )
    assert slipway("agents", "suspend", "desk", "--reason", "it pays twice").exit_code == 0
    assert "drill" in slipway("suspension", "--suspend", "--reason", "drill").stdout
    put = slipway("schedules", "put", "desk", "daily", "--cron", "0 7 * * *", "--time-zone", "Europe/Berlin")
    assert put.exit_code == 0
    assert "daily" in slipway("schedules", "list", "desk").stdout
    assert slipway("schedules", "delete", "desk", "daily").exit_code == 0
    assert [(one.method, one.path) for one in gateway.asked] == [
        ("POST", "/v1/agents/desk/suspend"),
        ("PUT", "/v1/suspension"),
        ("PUT", "/v1/agents/desk/schedules/daily"),
        ("GET", "/v1/agents/desk/schedules"),
        ("DELETE", "/v1/agents/desk/schedules/daily"),
    ]
    assert json.loads(gateway.asked[2].body) == {"cron": "0 7 * * *", "time_zone": "Europe/Berlin", "paused": False}
