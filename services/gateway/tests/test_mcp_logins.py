"""Logins to MCP servers over HTTP: what is asked of the tools service, and what authorization servers see of us."""

from typing import Any
from urllib.parse import parse_qs

import httpx
from slipway.tools.v1 import tools_pb2 as pb
from slipway_chassis.errors import NotFound

CALLBACK = "/v1/mcp/oauth/callback"
VALID = pb.McpAuthorization(
    state=pb.MCP_AUTHORIZATION_STATE_VALID,
    refreshable=True,
    authorizer="alice",
    issuer="https://as.example",
    scopes=["read"],
)


def test_a_login_begins_where_the_browser_can_come_back_to(alice: Any, services: Any, gateway: Any) -> None:
    services.on(
        "BeginMcpLogin",
        lambda call: pb.BeginMcpLoginResponse(
            authorization_url="https://as.example/authorize?x=1", state="s", issuer="https://as.example"
        ),
    )
    begun = alice.post("/v1/mcp-servers/crm/login", json={"loopback_port": 4711}).json()
    asked = services.last("BeginMcpLogin").request
    assert (asked.server, asked.redirect_uri) == ("crm", "http://127.0.0.1:4711/callback")
    # Others could not fetch a document of this gateway, which has no public address.
    assert asked.client_metadata_url == ""
    assert (begun["authorization_url"], begun["state"], begun["redirect_uri"]) == (
        "https://as.example/authorize?x=1",
        "s",
        asked.redirect_uri,
    )
    alice.post("/v1/mcp-servers/crm/login", json={})
    assert services.last("BeginMcpLogin").request.redirect_uri == f"{gateway.url}{CALLBACK}"
    assert alice.post("/v1/mcp-servers/crm/login", json={"loopback_port": 80}).status_code == 422


def test_a_login_is_completed_and_ended(alice: Any, services: Any) -> None:
    services.on("CompleteMcpLogin", lambda call: pb.CompleteMcpLoginResponse(authorization=VALID))
    body = {"state": "s", "code": "c", "iss": "https://as.example"}
    done = alice.post("/v1/mcp-servers/crm/login/complete", json=body).json()
    assert services.last("CompleteMcpLogin").request == pb.CompleteMcpLoginRequest(server="crm", **body)
    assert (done["state"], done["authorizer"], done["scopes"]) == ("VALID", "alice", ["read"])

    server = pb.McpServer(server="crm", authorization=VALID)
    services.on("GetMcpServer", lambda call: pb.GetMcpServerResponse(server=server))
    assert alice.get("/v1/mcp-servers/crm").json()["authorization"] == done

    services.on("LogOutOfMcpServer", lambda call: pb.LogOutOfMcpServerResponse(revoked=True))
    assert alice.post("/v1/mcp-servers/crm/logout").json() == {"revoked": True}

    def unknown(call: Any) -> Any:
        raise NotFound("no such login")

    services.on("CompleteMcpLogin", unknown)
    assert alice.post("/v1/mcp-servers/crm/login/complete", json=body).status_code == 404


def test_nobody_without_a_token_begins_or_completes_a_login(gateway: Any) -> None:
    for path in ("login", "login/complete", "logout"):
        answer = httpx.post(f"{gateway.url}/v1/mcp-servers/crm/{path}", json={"state": "s"}, trust_env=False)
        assert answer.status_code == 401


def test_the_callback_shows_what_came_and_does_nothing(gateway: Any, services: Any) -> None:
    before = len(services.calls)
    query = {"state": "s", "code": '<script>alert("x")</script>&a=b', "iss": "https://as.example", "evil": "<b>"}
    page = httpx.get(gateway.url + CALLBACK, params=query, trust_env=False)
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert "evil" not in page.text
    line = page.text.partition("<pre>")[2].partition("</pre>")[0].replace("&amp;", "&")
    assert {name: values[0] for name, values in parse_qs(line).items()} == {
        name: query[name] for name in ("state", "code", "iss")
    }
    assert len(services.calls) == before
    for wrong in ({}, {"code": "c"}, {"state": "s"}):
        assert httpx.get(gateway.url + CALLBACK, params=wrong, trust_env=False).status_code == 400


def test_authorization_servers_learn_who_the_client_is(gateway: Any) -> None:
    address = f"{gateway.url}/v1/mcp/oauth/client.json"
    document = httpx.get(address, trust_env=False).json()
    assert document["client_id"] == address
    assert document["redirect_uris"] == [gateway.url + CALLBACK, "http://127.0.0.1/callback"]
    assert document["token_endpoint_auth_method"] == "none"
