"""Keycloak as the authorization server, and the official SDK's server as the resource that checks its tokens."""

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from slipway.tools.v1 import tools_pb2 as pb
from slipway_testkit.pages import sign_in
from slipway_testkit.servers.keycloak import KeycloakServer
from tools_testing.oauth import begin, complete

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

REALM = "mcp"
MACHINE = {"clientId": "machine", "secret": "Bearer s3cr3t-7f1c9a-ledger", "serviceAccountsEnabled": True}
POLICIES = "org.keycloak.services.clientregistration.policy.ClientRegistrationPolicy"


class Verifier:
    """Takes tokens of the realm for this resource only."""

    def __init__(self, issuer: str, resource: str) -> None:
        self._issuer = issuer
        self._resource = resource
        self._keys = jwt.PyJWKClient(f"{issuer}/protocol/openid-connect/certs")

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            key = await asyncio.to_thread(self._keys.get_signing_key_from_jwt, token)
            claims = jwt.decode(token, key, ["RS256"], audience=self._resource, issuer=self._issuer)
        except jwt.PyJWTError:
            return None
        who = claims.get("preferred_username", claims["sub"])
        return AccessToken(token=token, client_id=claims["azp"], scopes=[], resource=self._resource, subject=who)


@pytest.fixture(scope="module")
def resource(keycloak_server: KeycloakServer) -> Iterator[str]:
    """The URL of the official server, in front of which the realm's tokens are asked for."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    issuer = keycloak_server.issuer(REALM)
    server = MCPServer(
        "official",
        token_verifier=Verifier(issuer, url),
        auth=AuthSettings(issuer_url=issuer, resource_server_url=url, validate_token_resource=True),
    )

    @server.tool()
    def who() -> str:
        """Tells who calls."""
        token = get_access_token()
        return str(token and token.subject)

    running = uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="error", ws="none"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    yield url
    running.should_exit = True
    thread.join(20)
    listening.close()


@pytest.fixture(scope="module")
def realm(keycloak_server: KeycloakServer, resource: str) -> Iterator[str]:
    """A realm whose tokens are for the resource, that registers clients and takes every refresh token once."""
    admin = keycloak_server.admin
    user = {
        "username": "ann",
        "enabled": True,
        "email": "ann@example.com",
        "emailVerified": True,
        "firstName": "Ann",
        "lastName": "Other",
        "credentials": [{"type": "password", "value": "ann"}],
    }
    # Tokens end within the time in which they are renewed ahead: every call renews.
    made = {"realm": REALM, "enabled": True, "sslRequired": "none", "accessTokenLifespan": 20, "users": [user]}
    admin("POST", "", made | {"revokeRefreshToken": True, "refreshTokenMaxReuse": 0}, realm="")
    config = {"included.custom.audience": resource, "access.token.claim": "true"}
    mapper = {
        "name": "audience",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": config,
    }
    admin(
        "POST",
        "/client-scopes",
        {"name": "mcp", "protocol": "openid-connect", "protocolMappers": [mapper]},
        realm=REALM,
    )
    [scope] = [one["id"] for one in admin("GET", "/client-scopes", realm=REALM) if one["name"] == "mcp"]
    admin("PUT", f"/default-default-client-scopes/{scope}", realm=REALM)
    for policy in admin("GET", f"/components?type={POLICIES}", realm=REALM):
        if policy["name"] == "Trusted Hosts":
            admin("DELETE", f"/components/{policy['id']}", realm=REALM)
    admin("POST", "/clients", MACHINE, realm=REALM)
    yield keycloak_server.issuer(REALM)
    admin("DELETE", "", realm=REALM)


@pytest.fixture(scope="module")
def replica(start_tools: Callable[..., Any], keycloak_server: KeycloakServer, target: Any, resource: str) -> Any:
    ports = (keycloak_server.port, urlsplit(resource).port, target.port)
    return start_tools(HTTP_ALLOW=",".join(f"127.0.0.1:{port}" for port in ports))


async def approve_all(who: Any, server: str) -> None:
    listing = await who.call("ListMcpServerTools", pb.ListMcpServerToolsRequest(server=server))
    assert listing.fault == ""
    pins = [pb.McpToolPin(name=tool.name, digest=tool.digest) for tool in listing.tools]
    await who.call("ApproveMcpTools", pb.ApproveMcpToolsRequest(server=server, tools=pins))


async def test_somebody_logs_in_at_keycloak_and_tools_act_with_their_account_until_they_log_out(
    replica: Any,
    client: Callable[..., Any],
    target: Any,
    resource: str,
    realm: str,
    keycloak_server: KeycloakServer,
) -> None:
    alice = client(target=replica.target)
    connection = pb.McpConnection(http=pb.McpHttp(url=resource), timeout={"seconds": 60})
    await alice.call("PutMcpServer", pb.PutMcpServerRequest(server="official", connection=connection))
    begun = await begin(alice, "official", redirect_uri=f"{target.url}/callback")
    assert begun.issuer == realm

    came_back = await asyncio.to_thread(sign_in, begun.authorization_url, "ann", "ann")
    assert str(came_back.url).startswith(f"{target.url}/callback?")
    response = {name: values[0] for name, values in parse_qs(urlsplit(str(came_back.url)).query).items()}
    assert response["iss"] == realm
    granted = await complete(alice, "official", response)
    assert (granted.state, granted.refreshable) == (pb.MCP_AUTHORIZATION_STATE_VALID, True)

    await approve_all(client(target=replica.target, subject="bob", roles=["reviewer"]), "official")
    answers = await asyncio.gather(*(alice.invoke("official.who") for _ in range(3)))
    assert [json.loads(answer.output_json) for answer in answers] == [{"result": "ann"}] * 3

    [ann] = keycloak_server.admin("GET", "/users?username=ann", realm=REALM)
    sessions = f"/users/{ann['id']}/sessions"
    assert len(keycloak_server.admin("GET", sessions, realm=REALM)) == 1
    answer = await alice.call("LogOutOfMcpServer", pb.LogOutOfMcpServerRequest(server="official"))
    assert answer.revoked
    assert keycloak_server.admin("GET", sessions, realm=REALM) == []
    assert (await alice.invoke("official.who")).error.code == "LOGIN_REQUIRED"


async def test_a_machine_gets_its_tokens_at_keycloak_without_a_person(
    replica: Any, client: Callable[..., Any], resource: str, realm: str
) -> None:
    alice = client(target=replica.target)
    oauth = pb.McpOAuth(client_id="machine", client_secret="secret:ledger-token", issuer=realm)
    connection = pb.McpConnection(http=pb.McpHttp(url=resource, oauth=oauth), timeout={"seconds": 60})
    await alice.call("PutMcpServer", pb.PutMcpServerRequest(server="robot", connection=connection))
    await approve_all(client(target=replica.target, subject="bob", roles=["reviewer"]), "robot")
    answer = await alice.invoke("robot.who")
    assert json.loads(answer.output_json) == {"result": "service-account-machine"}
