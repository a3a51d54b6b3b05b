"""What every call is checked for, how it is recorded, and what never leaves the service."""

import asyncio
import hashlib
import json
from typing import Any

import asyncpg
import httpx
import pytest
from slipway.tools.v1 import tools_pb2
from slipway_chassis import jcs
from slipway_chassis.errors import ErrorKind, SlipwayError


async def test_a_call_is_recorded_with_all_that_was_asked_for_and_what_came_of_it(
    alice: Any, events: Any, effect: Any, unique: Any
) -> None:
    run = unique("run_")
    arguments = {"code": "open('result.json', 'w').write('{\"refund\": 12.5}'); print('hi')", "files": {"a.txt": "x"}}
    digest = jcs.digest(arguments)
    approval = tools_pb2.ApprovalProof(approval_id="apr_1", approver="bob", arguments_digest=digest)
    answer = await alice.invoke("python", arguments, effect=effect(f"{run}/amount/1"), approval=approval)
    body = await events(answer.record.event_id)
    canonical = body["event"].encode()
    assert hashlib.sha256(bytes.fromhex(body["salt"]) + canonical).hexdigest() == answer.record.commitment
    event = json.loads(canonical)
    data = event["data"]
    assert (event["type"], event["tenant"], event["subject"], event["run_id"]) == ("tool.call", "acme", "alice", run)
    assert (event["resource"], event["service"], event["actor"]["subject"]) == ("tool/python", "tools", "alice")
    assert event["policy"]["policies"]
    assert json.loads(data["arguments"]) == arguments
    assert data["arguments_digest"] == digest
    assert data["approval"] == {"approval_id": "apr_1", "approver": "bob", "arguments_digest": digest}
    assert data["effect"] == {"key": f"{run}/amount/1", "epoch": 1, "attempt": 1}
    assert data["outcome"] == "succeeded"
    assert data["output"]["text"] == '{"refund":12.5}'
    assert data["stdout"]["text"] == "hi\n"
    assert data["exit_status"] == 0
    assert data["sandbox"].startswith("nsjail")
    assert data["files"]["a.txt"]["sha256"] == hashlib.sha256(b"x").hexdigest()
    assert data["tool_digest"].startswith("sha256:")


async def test_a_failed_an_uncertain_and_a_refused_call_are_recorded_too(
    alice: Any, events: Any, target: Any, unique: Any, say: Any
) -> None:
    failed = await alice.python("raise SystemExit(3)")
    data = json.loads((await events(failed.record.event_id))["event"])["data"]
    assert (data["outcome"], data["error"]["code"], data["exit_status"]) == ("failed", "EXIT_STATUS", 3)

    path = f"/{unique('unsure')}"
    target.answers[path] = say(502)
    await alice.put("recorded.post", target.url + path)
    with pytest.raises(SlipwayError) as uncertain:
        await alice.invoke("recorded.post")
    data = json.loads((await events(uncertain.value.metadata["record"]))["event"])["data"]
    assert (data["outcome"], data["tool"]) == ("uncertain", "recorded.post")

    name = unique("metadata")
    await alice.put(name, "https://169.254.169.254/latest")
    with pytest.raises(SlipwayError):
        await alice.invoke(name)
    refused = await _find(events, name, "tool.call")
    assert (refused["outcome"], refused["error"]["code"]) == ("refused", "ADDRESS_NOT_ALLOWED")


async def test_every_version_of_a_declaration_is_recorded(alice: Any, events: Any, unique: Any) -> None:
    name = unique("versioned")
    first = await alice.put(name, "https://a.example/")
    declared = await _find(events, name, "tool.declared")
    assert (declared["digest"], declared["previous_digest"]) == (first.tool.digest, "")
    second = await alice.put(name, "https://b.example/")
    await alice.put(name, "https://b.example/")
    declared = await _find(events, name, "tool.declared", digest=second.tool.digest)
    assert declared["previous_digest"] == first.tool.digest
    assert json.loads(declared["declaration"])["http"]["url"] == "https://b.example/"


async def _find(events: Any, tool: str, kind: str, digest: str = "") -> dict[str, Any]:
    for _ in range(200):
        for body in list(events.seen.values()):
            event = json.loads(body["event"]) if "event" in body else {}
            if (event.get("resource"), event.get("type")) != (f"tool/{tool}", kind):
                continue
            if not digest or event["data"]["digest"] == digest:
                return event["data"]
        await asyncio.sleep(0.05)
    raise AssertionError(f"no {kind} of {tool}")


async def test_a_secret_and_what_a_call_was_about_are_in_no_log_no_answer_and_no_row(
    alice: Any, events: Any, tools: Any, target: Any, unique: Any, effect: Any, say: Any
) -> None:
    path = f"/{unique('echo')}"
    target.answers[path] = lambda handler: say(
        200, json.dumps({"headers": dict(handler.headers), "bare": "s3cr3t-7f1c9a-ledger"}).encode()
    )(handler)
    await alice.put(
        "echo.post", target.url + path, idempotent=True, http={"headers": {"Authorization": "secret:ledger-token"}}
    )
    marker = unique("private-marker-")
    answer = await alice.invoke("echo.post", {"text": marker}, effect=effect(f"{unique('run_')}/a/1"))
    assert target.to(path)[0].headers["authorization"] == "Bearer s3cr3t-7f1c9a-ledger"
    assert json.loads(answer.output_json)["headers"]["Authorization"] == "[secret]"
    body = await events(answer.record.event_id)
    assert marker in body["event"]
    log = tools.log_file.read_text()
    rows = await _dump(tools.environment["SLIPWAY_TOOLS_DATABASE_URL"])
    for place in (answer.SerializeToString().decode(errors="replace"), json.dumps(body), log, rows):
        assert "s3cr3t-7f1c9a-ledger" not in place
    for place in (log, rows):
        assert marker not in place


async def _dump(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        text: list[str] = []
        for (table,) in tables:
            for row in await connection.fetch(f"SELECT * FROM {table}"):
                text += [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in row.values()]
        assert any("secret:ledger-token" in part for part in text)
        return "\n".join(text)
    finally:
        await connection.close()


async def test_a_recorded_answer_is_encrypted_under_its_subject(
    alice: Any, tools: Any, effect: Any, unique: Any
) -> None:
    marker = unique("in-the-ledger-")
    key = f"{unique('run_')}/a/1"
    first = await alice.invoke(
        "python", {"code": f"open('result.json', 'w').write('\"{marker}\"')"}, effect=effect(key)
    )
    assert marker in first.output_json
    assert marker not in await _dump_effects(tools.environment["SLIPWAY_TOOLS_DATABASE_URL"], key)


async def _dump_effects(url: str, key: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow("SELECT * FROM effect WHERE key = $1", key)
        assert row["state"] == "DONE"
        return "\n".join(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in row.values())
    finally:
        await connection.close()


async def test_an_approval_for_other_arguments_is_refused_and_nothing_is_done(
    alice: Any, target: Any, unique: Any
) -> None:
    path = f"/{unique('gated')}"
    await alice.put("gated.post", target.url + path)
    proof = tools_pb2.ApprovalProof(approval_id="apr_1", approver="bob", arguments_digest=jcs.digest({"amount": 1}))
    with pytest.raises(SlipwayError) as refused:
        await alice.invoke("gated.post", {"amount": 1000}, approval=proof)
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.FAILED_PRECONDITION, "APPROVAL_MISMATCH")
    assert target.to(path) == []
    # Numbers and order are the canonical form's, not the text's.
    answer = await alice.invoke("gated.post", '{ "amount": 1.0 }', approval=proof)
    assert not answer.HasField("error")


@pytest.mark.parametrize(
    ("declared", "demanded", "allowed"),
    [
        (["eu"], ["eu"], True),
        (["eu"], ["eu", "us"], True),
        (["eu", "us"], ["eu"], False),
        (["us"], ["eu"], False),
        ([], ["eu"], False),
        (["eu"], [], False),
    ],
)
async def test_demanded_regions_are_kept_and_undeclared_ones_are_refused(
    alice: Any, target: Any, unique: Any, declared: list[str], demanded: list[str], allowed: bool
) -> None:
    path = f"/{unique('regional')}"
    await alice.put("regional.post", target.url + path, regions=declared)
    if allowed:
        await alice.invoke("regional.post", regions=demanded, regions_demanded=True)
    else:
        with pytest.raises(SlipwayError) as refused:
            await alice.invoke("regional.post", regions=demanded, regions_demanded=True)
        assert refused.value.reason == "REGION_NOT_ALLOWED"
    assert len(target.to(path)) == allowed
    assert not (await alice.invoke("regional.post")).HasField("error")


async def test_regions_sent_without_the_flag_are_a_demand_too(alice: Any) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.invoke("python", {"code": "1"}, regions=["us"])
    assert refused.value.reason == "REGION_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("{", "INVALID_JSON"),
        ('{"code": "1", "code": "2"}', "INVALID_JSON"),
        ('{"code": NaN}', "INVALID_JSON"),
        ("[]", "INVALID_TOOL_ARGUMENTS"),
        ('{"code": "\\ud800"}', "INVALID_JSON"),
        ('{"code": "' + "x" * (256 * 1024) + '"}', "INVALID_JSON"),
    ],
)
async def test_arguments_that_are_not_one_clear_json_object_are_refused(
    alice: Any, arguments: str, reason: str
) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.invoke("python", arguments)
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INVALID_ARGUMENT, reason)


async def test_an_expression_that_takes_for_ever_elsewhere_does_not_hold_the_service(alice: Any, target: Any) -> None:
    schema = '{"type":"object","properties":{"a":{"type":"string","pattern":"^(a+)+$"}}}'
    await alice.put("pattern.post", target.url + "/pattern", input_schema_json=schema)
    with pytest.raises(SlipwayError) as refused:
        await alice.invoke("pattern.post", {"a": "a" * 50_000 + "!"})
    assert refused.value.violations[0].field == "/a"


async def test_calls_beyond_the_queue_are_refused_with_a_time_to_come_back(
    start_tools: Any, client: Any, eventually: Any
) -> None:
    tools = start_tools(SANDBOX_SLOTS="1", SANDBOX_QUEUE="1")
    try:
        alice = client(tools.target)
        calls = [asyncio.create_task(alice.python("import time; time.sleep(3)")) for _ in range(5)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, SlipwayError)]
        assert len(refused) == 3
        assert {(error.reason, error.retry_after) for error in refused} == {("TOOL_QUEUE_FULL", 1.0)}
    finally:
        tools.stop()


async def test_metrics_count_calls_by_kind_and_outcome(alice: Any, tools: Any) -> None:
    await alice.python("raise SystemExit(1)")
    async with httpx.AsyncClient() as web:
        text = (await web.get(f"http://127.0.0.1:{tools.metrics_port}/metrics")).text
    assert 'slipway_tools_call_seconds_count{kind="builtin",outcome="EXIT_STATUS"}' in text
    assert "slipway_tools_sandbox_start_seconds_count" in text
    assert "slipway_tools_sandbox_downgraded" in text


async def test_the_record_of_a_call_says_what_came_from_outside_and_what_the_tool_may_do(
    alice: Any, events: Any, target: Any, unique: Any
) -> None:
    name = unique("audited.")
    await alice.put(name, f"{target.url}/{name}")
    answer = await alice.invoke(name, {"a": 1}, arguments_tainted=True)
    data = json.loads((await events(answer.record.event_id))["event"])["data"]
    assert (data["arguments_tainted"], data["output_tainted"]) == (True, True)
    assert (data["side_effect"], data["tool_version"]) == ("write", 1)
