"""Logging in to MCP servers: the authorization-code flow, tokens that are renewed, scopes, and logging out."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from slipway.tools.v1 import tools_pb2 as pb
from slipway_chassis.errors import SlipwayError
from tools_testing.oauth import REDIRECT, Vault, approve, begin, complete, connect, log_in
from tools_testing.poison import respond

CODE = pb.MCP_O_AUTH_GRANT_AUTHORIZATION_CODE


@pytest.fixture
def vault(target: Any, unique: Callable[[str], str]) -> Vault:
    return Vault(target, unique("vault"))


@pytest.fixture
def bob(client: Callable[..., Any]) -> Any:
    return client(subject="bob", roles=["reviewer"])


async def state_of(who: Any, vault: Vault) -> pb.McpAuthorization:
    answer = await who.call("GetMcpServer", pb.GetMcpServerRequest(server=vault.name))
    return answer.server.authorization


async def test_a_server_that_is_only_named_is_logged_in_to_and_called(
    alice: Any, bob: Any, client: Callable[..., Any], vault: Vault
) -> None:
    await connect(alice, vault)
    assert (await state_of(alice, vault)).state == pb.MCP_AUTHORIZATION_STATE_NONE
    listing = await alice.call("ListMcpServerTools", pb.ListMcpServerToolsRequest(server=vault.name))
    assert listing.fault.startswith("LOGIN_REQUIRED")
    assert f"slipway mcp login {vault.name}" in listing.fault

    begun = await begin(alice, vault.name)
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.authorization_url).query).items()}
    assert (asked["resource"], asked["code_challenge_method"]) == (vault.server.url, "S256")
    assert (asked["state"], asked["redirect_uri"], begun.issuer) == (begun.state, REDIRECT, vault.issuer)
    registered = json.loads(vault.requests("register")[-1].body)
    assert (registered["redirect_uris"], registered["application_type"]) == ([REDIRECT], "native")

    granted = await complete(alice, vault.name, vault.browse(begun.authorization_url))
    assert (granted.state, granted.refreshable) == (pb.MCP_AUTHORIZATION_STATE_VALID, True)
    assert (granted.authorizer, granted.issuer) == ("alice", vault.issuer)
    [sent] = vault.requests("token")
    assert vault.form(f"/{vault.name}/as/token")["resource"] == vault.server.url
    assert sent.headers["authorization"].startswith("Basic ")

    await approve(alice, bob, vault)
    # The login is the tenant's: somebody who never logged in calls the tool.
    assert (await invoke(client(subject="frank", roles=["operator"]), vault)).error.code == ""
    sent = {request.headers.get("authorization") for request in vault.target.to(vault.server.path)}
    assert sent == {None, f"Bearer {next(iter(vault.access))}"}


async def invoke(who: Any, vault: Vault) -> Any:
    return await who.invoke(f"{vault.name}.lookup", {"order": "A"})


async def test_everybody_logs_in_for_themselves_where_the_connection_says_so(
    alice: Any, bob: Any, client: Callable[..., Any], vault: Vault
) -> None:
    await connect(alice, vault, grant=CODE, per_user=True)
    await log_in(alice, vault)
    # Who looks at what is offered does so with their own login as well.
    await log_in(bob, vault)
    await approve(alice, bob, vault)
    frank = client(subject="frank", roles=["operator"])
    missing = await invoke(frank, vault)
    assert missing.error.code == "LOGIN_REQUIRED"
    assert f"slipway mcp login {vault.name}" in missing.error.message
    assert not missing.error.retryable
    await log_in(frank, vault)
    assert (await invoke(frank, vault)).error.code == ""
    used = {request.headers.get("authorization") for request in vault.target.to(vault.server.path)} - {None}
    assert len(used) == 3


async def test_policy_says_who_logs_in_for_the_tenant(alice: Any, client: Callable[..., Any], vault: Vault) -> None:
    await connect(alice, vault)
    for who in (client(subject="frank", roles=["operator"]), client(subject="bob", roles=["reviewer"])):
        with pytest.raises(SlipwayError) as refused:
            await begin(who, vault.name)
        assert refused.value.reason == "POLICY_DENIED"
    agent = client(act="triage@1")
    with pytest.raises(SlipwayError):
        await begin(agent, vault.name)
    gina = client(subject="gina", tenant="globex")
    with pytest.raises(SlipwayError) as unknown:
        await begin(gina, vault.name)
    assert unknown.value.reason == "MCP_SERVER_NOT_FOUND"


async def test_tokens_are_renewed_once_by_however_many_calls_on_two_replicas(
    tools: Any, start_tools: Callable[..., Any], client: Callable[..., Any], alice: Any, bob: Any, vault: Vault
) -> None:
    database = tools.environment["SLIPWAY_TOOLS_DATABASE_URL"]
    replicas = [tools, start_tools(DATABASE_URL=database)]
    first, second = alice, client(target=replicas[1].target)
    await connect(first, vault)
    await log_in(first, vault)
    await approve(first, bob, vault)
    before = await stored(database, vault)

    vault.end_tokens()
    answers = await asyncio.gather(*(invoke(who, vault) for who in [first, second] * 4))
    assert [answer.error.code for answer in answers] == [""] * 8
    assert len(vault.requests("token")) == 2  # the code, and one renewal
    assert not vault.reused

    # An access token that is about to end is replaced before it is sent.
    vault.lifetime = 1
    vault.end_tokens()
    assert (await invoke(first, vault)).error.code == ""
    assert len(vault.requests("token")) == 3
    assert (await invoke(second, vault)).error.code == ""
    assert len(vault.requests("token")) == 4
    assert not vault.reused

    after = await stored(database, vault)
    assert before["sealed"] != after["sealed"]
    for text in (*vault.access, *vault.refresh):
        assert text.encode() not in bytes(after["sealed"])
        for replica in replicas:
            assert text not in replica.log_file.read_text()


async def stored(database: str, vault: Vault) -> Any:
    connection = await asyncpg.connect(database)
    try:
        return await connection.fetchrow("SELECT * FROM mcp_authorization WHERE server = $1", vault.name)
    finally:
        await connection.close()


async def test_a_login_that_is_renewed_no_more_is_told_with_the_command(alice: Any, bob: Any, vault: Vault) -> None:
    await connect(alice, vault)
    await log_in(alice, vault)
    await approve(alice, bob, vault)
    vault.end_tokens()
    vault.refresh.clear()
    failed = await invoke(alice, vault)
    assert failed.error.code == "LOGIN_REQUIRED"
    assert (await state_of(alice, vault)).state == pb.MCP_AUTHORIZATION_STATE_LOGIN_REQUIRED
    requests = len(vault.requests("token"))
    assert (await invoke(alice, vault)).error.code == "LOGIN_REQUIRED"
    assert len(vault.requests("token")) == requests
    await log_in(alice, vault)
    assert (await invoke(alice, vault)).error.code == ""


async def test_servers_that_are_down_end_no_login(alice: Any, bob: Any, vault: Vault) -> None:
    await connect(alice, vault)
    await log_in(alice, vault)
    await approve(alice, bob, vault)
    vault.end_tokens()
    path = f"/{vault.name}/as/token"
    works = vault.target.answers[path]
    vault.answer(path, lambda _: (503, {}))
    failed = await invoke(alice, vault)
    assert (failed.error.code, failed.error.retryable) == ("UNREACHABLE", True)
    vault.answer(path, lambda _: (401, {"error": "invalid_client"}))
    assert (await invoke(alice, vault)).error.code == "LOGIN_REQUIRED"
    vault.target.answers[path] = works
    assert (await invoke(alice, vault)).error.code == ""
    # Nor does an MCP server that refuses good tokens for a while.
    serves = vault.target.answers[vault.server.path]
    vault.target.answers[vault.server.path] = lambda handler: respond(handler, b"", status=401)
    assert (await invoke(alice, vault)).error.code == "LOGIN_REQUIRED"
    vault.target.answers[vault.server.path] = serves
    assert (await invoke(alice, vault)).error.code == ""


async def test_scopes_are_those_of_the_challenge_and_a_step_up_adds_to_them(alice: Any, bob: Any, vault: Vault) -> None:
    vault.challenge = 'Basic realm="x, y", Bearer realm="a \\"b\\"", scope="orders:read profile", error="invalid_token"'
    await connect(alice, vault)
    granted = await log_in(alice, vault)
    assert list(granted.scopes) == ["orders:read", "profile"]
    await approve(alice, bob, vault)
    vault.needed_scope = "orders:write"
    failed = await invoke(alice, vault)
    assert failed.error.code == "LOGIN_REQUIRED"
    assert "orders:write" in failed.error.message
    state = await state_of(alice, vault)
    assert (state.state, list(state.missing_scopes)) == (
        pb.MCP_AUTHORIZATION_STATE_LOGIN_REQUIRED,
        ["orders:write"],
    )
    stepped = await log_in(alice, vault)
    assert list(stepped.scopes) == ["orders:read", "profile", "orders:write"]
    assert not stepped.missing_scopes
    assert (await invoke(alice, vault)).error.code == ""


async def test_logging_out_revokes_and_disconnecting_does_too(
    alice: Any, bob: Any, vault: Vault, events: Any, eventually: Any
) -> None:
    await connect(alice, vault)
    await log_in(alice, vault)
    await approve(alice, bob, vault)
    [refresh] = vault.refresh
    answer = await alice.call("LogOutOfMcpServer", pb.LogOutOfMcpServerRequest(server=vault.name))
    assert answer.revoked
    assert vault.form(f"/{vault.name}/as/revoke")["token"] == refresh
    assert (await state_of(alice, vault)).state == pb.MCP_AUTHORIZATION_STATE_NONE
    assert (await invoke(alice, vault)).error.code == "LOGIN_REQUIRED"
    again = await alice.call("LogOutOfMcpServer", pb.LogOutOfMcpServerRequest(server=vault.name))
    assert not again.revoked

    await log_in(alice, vault)
    await alice.call("DeleteMcpServer", pb.DeleteMcpServerRequest(server=vault.name))
    assert len(vault.requests("revoke")) == 2
    assert not vault.refresh

    def recorded() -> Counter[str]:
        seen = [json.loads(body["event"]) for body in events.seen.values()]
        return Counter(one["type"] for one in seen if one["resource"] == f"mcp-server/{vault.name}")

    told = {"mcp.server.connected": 1, "mcp.authorization.granted": 2, "mcp.authorization.removed": 1}
    await eventually(lambda: recorded() == Counter(told | {"mcp.server.removed": 1}))
    assert refresh not in str(events.seen)


async def test_another_connection_has_no_login(alice: Any, vault: Vault) -> None:
    await connect(alice, vault)
    begun = await begin(alice, vault.name)
    await log_in(alice, vault)
    await connect(alice, vault, grant=CODE, scopes=["other"])
    assert (await state_of(alice, vault)).state == pb.MCP_AUTHORIZATION_STATE_NONE
    assert not vault.refresh
    await connect(alice, vault)
    assert (await state_of(alice, vault)).state == pb.MCP_AUTHORIZATION_STATE_NONE
    with pytest.raises(SlipwayError) as refused:
        await complete(alice, vault.name, vault.browse(begun.authorization_url))
    assert refused.value.reason == "MCP_LOGIN_NOT_FOUND"


async def test_a_registered_client_goes_before_a_document_and_that_before_registration(
    alice: Any, vault: Vault
) -> None:
    vault.metadata["client_id_metadata_document_supported"] = True
    vault.metadata["token_endpoint_auth_methods_supported"] = ["client_secret_post", "none"]
    document = "https://slipway.example/v1/mcp/oauth/client.json"
    await connect(alice, vault)
    begun = await begin(alice, vault.name, client_metadata_url=document)
    await complete(alice, vault.name, vault.browse(begun.authorization_url))
    form = vault.form(f"/{vault.name}/as/token")
    assert (form["client_id"], "client_secret" in form) == (document, False)

    declared = {"client_id": "ours", "client_secret": "secret:ledger-token", "issuer": vault.issuer}
    await connect(alice, vault, grant=CODE, **declared)
    begun = await begin(alice, vault.name, client_metadata_url=document)
    await complete(alice, vault.name, vault.browse(begun.authorization_url))
    form = vault.form(f"/{vault.name}/as/token")
    assert form["client_id"] == "ours"
    assert form["client_secret"].startswith("Bearer s3cr3t")
    assert vault.requests("register") == []


async def test_metadata_is_looked_for_where_the_specification_says_in_its_order(alice: Any, vault: Vault) -> None:
    vault.challenge = f'Bearer resource_metadata="{vault.target.url}/{vault.name}/described"'
    vault.answer(f"/{vault.name}/described", lambda _: (200, vault.resource))
    inserted = f"/.well-known/oauth-authorization-server/{vault.name}/as"
    looked_at = [inserted, f"/.well-known/openid-configuration/{vault.name}/as"]
    for path in looked_at:
        vault.answer(path, lambda _: (404, {}))
    appended = f"/{vault.name}/as/.well-known/openid-configuration"
    vault.answer(appended, lambda _: (200, vault.metadata))
    await connect(alice, vault)
    assert (await begin(alice, vault.name)).issuer == vault.issuer
    paths = [one.path for one in vault.target.received if ".well-known" in one.path and vault.name in one.path]
    assert paths == [*looked_at, appended]
    assert vault.target.to(f"/{vault.name}/described")
