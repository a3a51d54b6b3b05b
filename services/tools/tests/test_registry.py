"""Declaring, finding and listing tools."""

import json
from typing import Any

import pytest
from slipway.tools.v1 import tools_pb2
from slipway_chassis.errors import ErrorKind, SlipwayError

URL = "https://tools.example.com/call"


def fields(error: SlipwayError) -> list[str]:
    return [violation.field for violation in error.violations]


async def get(client: Any, name: str) -> tools_pb2.Tool:
    return (await client.call("GetTool", tools_pb2.GetToolRequest(tool=name))).tool


async def names(client: Any, size: int = 0) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        page = await client.call("ListTools", tools_pb2.ListToolsRequest(page_size=size, page_token=token))
        assert not size or len(page.tools) <= size
        found += [tool.tool for tool in page.tools]
        token = page.next_page_token
        if not token:
            return found


async def test_a_declared_tool_is_given_back_as_it_was_declared(alice: Any, unique: Any) -> None:
    name = unique("crm.")
    schema = '{"type":"object","properties":{"b":{"type":"string","pattern":"^(a+)+$"},"a":{"multipleOf":0.5}}}'
    put = await alice.put(
        name,
        URL,
        input_schema_json=schema,
        output_schema_json='{"type":"null"}',
        regions=["us", "eu"],
        idempotent=True,
        http={"headers": {"Authorization": "secret:ledger-token"}},
    )
    assert put.created
    tool = await get(alice, name)
    assert tool == put.tool
    assert (tool.kind, tool.input_schema_json, list(tool.regions)) == ("http", schema, ["eu", "us"])
    assert tool.http.headers == {"Authorization": "secret:ledger-token"}
    assert (tool.http.idempotency_header, tool.http.timeout.seconds) == ("Idempotency-Key", 30)
    assert tool.digest.startswith("sha256:")


async def test_the_same_declaration_changes_nothing_and_another_one_changes_the_digest(alice: Any, unique: Any) -> None:
    name = unique("v.")
    first = await alice.put(name, URL)
    same = await alice.put(name, URL)
    assert (same.created, same.tool) == (False, first.tool)
    other = await alice.put(name, URL, description="Another")
    assert not other.created
    assert other.tool.digest != first.tool.digest
    assert other.tool.update_time.ToDatetime() > first.tool.update_time.ToDatetime()
    assert other.tool.create_time == first.tool.create_time


async def test_a_repeated_request_id_gets_the_first_answer_and_another_request_under_it_is_refused(
    alice: Any, unique: Any
) -> None:
    name, request_id = unique("idem."), unique("request")
    assert (await alice.put(name, URL, request_id=request_id)).created
    assert (await alice.put(name, URL, request_id=request_id)).created
    with pytest.raises(SlipwayError) as reused:
        await alice.put(name, URL, description="Another", request_id=request_id)
    assert reused.value.reason == "IDEMPOTENCY_KEY_REUSED"


def argument(schema: str) -> dict[str, str]:
    return {"input_schema_json": f'{{"type":"object","properties":{{"a":{schema}}}}}'}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input_schema_json": "{"}, "input_schema_json"),
        ({"input_schema_json": ""}, "input_schema_json"),
        ({"input_schema_json": '{"type":"array"}'}, "input_schema_json/type"),
        (argument('{"type":"nonsense"}'), "input_schema_json/properties/a/type"),
        (argument('{"$ref":"https://evil.example/x"}'), "input_schema_json/properties/a/$ref"),
        (argument('{"$ref":"file:///etc/passwd"}'), "input_schema_json/properties/a/$ref"),
        (argument('{"pattern":"(?=x)"}'), "input_schema_json/properties/a/pattern"),
        (argument('{"patternProperties":{"^a":{}}}'), "input_schema_json/properties/a/patternProperties"),
        ({"input_schema_json": '{"type":"object","$schema":"https://other.example/"}'}, "input_schema_json/$schema"),
        ({"output_schema_json": '{"type":5}'}, "output_schema_json/type"),
        ({"regions": ["EU!"]}, "regions[0]"),
        ({"http": {"method": "TRACE"}}, "http.method"),
        ({"http": {"timeout": {"seconds": 301}}}, "http.timeout"),
        ({"http": {"timeout": {"nanos": 1}}}, "http.timeout"),
        ({"http": {"headers": {"Host": "other"}}}, "http.headers[Host]"),
        ({"http": {"headers": {"X-A": "a\r\nX-B: b"}}}, "http.headers[X-A]"),
        ({"http": {"headers": {"Idempotency-Key": "fixed"}}}, "http.headers[Idempotency-Key]"),
        ({"http": {"headers": {"Authorization": "Bearer abc"}}}, "http.headers[Authorization]"),
        ({"http": {"headers": {"X-Api-Key": "abc"}}}, "http.headers[X-Api-Key]"),
        ({"http": {"headers": {"X-A": "secret:a b"}}}, "http.headers[X-A]"),
        ({"http": {"idempotency_header": "Content-Length"}}, "http.idempotency_header"),
    ],
)
async def test_a_wrong_declaration_is_refused_with_the_place(
    alice: Any, unique: Any, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.put(unique("wrong."), URL, **changes)
    assert refused.value.kind is ErrorKind.INVALID_ARGUMENT
    assert fields(refused.value) == [field]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.com/",
        "http://tools.example.com/",
        "https:///path",
        "https://user:pass@example.com/",
        "https://example.com/#part",
        "https://exa mple.com/",
        "https://{host}/",
        "https://example.com/?q={q}",
        "https://example.com/{a}/{a}",
        "https://example.com/{undeclared}",
        "https://example.com:0/",
        "https://example.com:99999/",
        "file:///etc/passwd",
        "https://exämple.com/",
    ],
)
async def test_a_url_that_could_lead_elsewhere_is_refused(alice: Any, unique: Any, url: str) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.put(unique("url."), url)
    assert fields(refused.value) == ["http.url"]


@pytest.mark.parametrize("name", ["", "Ledger", "a b", "x" * 65, ".a", "a/b", "python"])
async def test_a_name_that_is_wrong_or_builtin_is_refused(alice: Any, name: str) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.put(name, URL)
    assert fields(refused.value) == ["tool"]


@pytest.mark.parametrize("secret", ["unknown", "globex-key", "elsewhere"])
async def test_a_secret_that_is_unknown_or_meant_for_others_is_refused_alike(
    alice: Any, unique: Any, secret: str
) -> None:
    with pytest.raises(SlipwayError) as refused:
        await alice.put(unique("s."), URL, http={"headers": {"X-Key": f"secret:{secret}"}})
    assert refused.value.reason == "SECRET_UNAVAILABLE"
    assert refused.value.message.startswith(f"no secret {secret} for tools.example.com")


async def test_tools_of_another_tenant_do_not_exist(alice: Any, client: Any, unique: Any) -> None:
    name = unique("private.")
    await alice.put(name, URL)
    gina = client(subject="gina", tenant="globex")
    for call in (get(gina, name), gina.invoke(name)):
        with pytest.raises(SlipwayError) as missing:
            await call
        assert (missing.value.kind, missing.value.reason) == (ErrorKind.NOT_FOUND, "TOOL_NOT_FOUND")
    assert name not in await names(gina)
    assert (await gina.put(name, URL)).created


async def test_the_list_is_paged_by_name_with_the_builtin_tools_among_them(client: Any, unique: Any) -> None:
    someone = client(subject="someone", tenant=unique("tenant"))
    declared = [f"{letter}.tool" for letter in "zoqpcba"]
    for name in declared:
        await someone.put(name, URL)
    expected = sorted([*declared, "python", "shell"])
    for size in (0, 1, 2, 3, 7, 8, 9, 200):
        assert await names(someone, size) == expected
    with pytest.raises(SlipwayError) as refused:
        await someone.call("ListTools", tools_pb2.ListToolsRequest(page_token="nonsense"))
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


async def test_who_has_no_role_sees_no_tool_and_may_do_nothing(alice: Any, client: Any, unique: Any) -> None:
    name = unique("seen.")
    await alice.put(name, URL)
    erin = client(subject="erin", roles=[])
    assert await names(erin) == []
    for call in (get(erin, name), erin.invoke(name), erin.python("1"), erin.put(name, URL)):
        with pytest.raises(SlipwayError) as denied:
            await call
        assert (denied.value.kind, denied.value.reason) == (ErrorKind.PERMISSION_DENIED, "POLICY_DENIED")


async def test_who_may_read_may_not_therefore_invoke(client: Any) -> None:
    reviewer = client(subject="bob", roles=["reviewer"])
    assert (await get(reviewer, "python")).kind == "builtin"
    with pytest.raises(SlipwayError) as denied:
        await reviewer.python("1")
    assert denied.value.kind is ErrorKind.PERMISSION_DENIED


async def test_an_agent_acting_for_a_developer_declares_no_tools(client: Any, unique: Any) -> None:
    with pytest.raises(SlipwayError) as denied:
        await client(act="refund-desk@3").put(unique("by-agent."), URL)
    assert denied.value.reason == "POLICY_DENIED"


async def test_the_builtin_tool_publishes_its_schema_and_regions(alice: Any) -> None:
    tool = await get(alice, "python")
    schema = json.loads(tool.input_schema_json)
    assert set(schema["properties"]) == {
        "code",
        "files",
        "keep_state",
        "outputs",
        "session",
        "stdin",
        "timeout_seconds",
    }
    assert (list(tool.regions), tool.idempotent) == (["eu"], True)
