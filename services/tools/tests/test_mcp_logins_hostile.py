"""Logins that somebody tampers with: metadata that lies, answers that are another's, tokens that are for others."""

import base64
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from slipway.tools.v1 import tools_pb2 as pb
from slipway_chassis.errors import SlipwayError
from tools_testing.oauth import Vault, approve, begin, complete, connect, log_in
from tools_testing.poison import respond

CODE = pb.MCP_O_AUTH_GRANT_AUTHORIZATION_CODE


@pytest.fixture
def vault(target: Any, unique: Callable[[str], str]) -> Vault:
    return Vault(target, unique("vault"))


def jwt(**claims: Any) -> str:
    parts = [{"alg": "RS256", "typ": "at+jwt"}, claims]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + ".s"


def moved(to: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("location", to)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return send


def metadata(**changes: Any) -> Callable[[Vault], None]:
    return lambda vault: vault.metadata.update(changes)


def resource(**changes: Any) -> Callable[[Vault], None]:
    return lambda vault: vault.resource.update(changes)


def described(url: str) -> Callable[[Vault], None]:
    return lambda vault: setattr(vault, "challenge", f'Bearer resource_metadata="{url}"')


def giant(path: str) -> Callable[[Vault], None]:
    def swell(vault: Vault) -> None:
        vault.target.answers[path.format(vault.name)] = lambda handler: respond(handler, b'"' + b"a" * (1 << 20) + b'"')

    return swell


def redirected(vault: Vault) -> None:
    path = f"/.well-known/oauth-protected-resource/{vault.name}/mcp"
    vault.target.answers[f"/{vault.name}/elsewhere"] = vault.target.answers[path]
    vault.target.answers[path] = moved(f"{vault.target.url}/{vault.name}/elsewhere")
    vault.target.answers["/.well-known/oauth-protected-resource"] = moved(f"{vault.target.url}/{vault.name}/elsewhere")


LIES: dict[str, tuple[Callable[[Vault], None], str]] = {
    "issuer of another": (metadata(issuer="https://issuer.example"), "another issuer"),
    "resource of another host": (resource(resource="https://mcp.example/mcp"), "another resource"),
    "resource beside": (lambda vault: vault.resource.update(resource=vault.server.url + "-other"), "another resource"),
    "no PKCE": (lambda vault: vault.metadata.pop("code_challenge_methods_supported"), "PKCE"),
    "plain PKCE": (metadata(code_challenge_methods_supported=["plain"]), "PKCE"),
    "no codes": (metadata(response_types_supported=["token"]), "authorization codes"),
    "script as a page": (metadata(authorization_endpoint="javascript:alert(1)"), "no OAuthMetadata"),
    "file as a page": (metadata(authorization_endpoint="file:///etc/passwd"), "no OAuthMetadata"),
    "page on a private address": (metadata(authorization_endpoint="https://10.0.0.1/admin"), "not a public address"),
    "page without TLS": (metadata(authorization_endpoint="http://login.example/"), "not https"),
    "tokens at the metadata address": (metadata(token_endpoint="https://169.254.169.254/"), "not a public address"),
    "registration within": (metadata(registration_endpoint="https://[::ffff:10.0.0.1]/"), "not a public address"),
    "revocation without TLS": (metadata(revocation_endpoint="http://revoke.example/"), "not https"),
    "described by the metadata address": (described("http://169.254.169.254/latest"), "https://"),
    "described within": (described("https://127.0.0.1:1/x"), "not a public address"),
    "described by a file": (described("file:///etc/passwd"), "no acceptable"),
    "issuer within": (resource(authorization_servers=["https://192.168.0.1"]), "not a public address"),
    "giant description": (giant("/.well-known/oauth-protected-resource/{}/mcp"), "more than"),
    "giant metadata": (giant("/.well-known/oauth-authorization-server/{}/as"), "more than"),
    "redirected description": (redirected, "no protected resource metadata"),
    "no registration": (lambda vault: vault.metadata.pop("registration_endpoint"), "register one there"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_login_does_not_begin_on_metadata_that_can_not_be_trusted(alice: Any, vault: Vault, lie: str) -> None:
    tamper, told = LIES[lie]
    tamper(vault)
    await connect(alice, vault)
    with pytest.raises(SlipwayError) as refused:
        await begin(alice, vault.name)
    assert refused.value.reason in ("MCP_LOGIN_FAILED", "ADDRESS_NOT_ALLOWED")
    assert told in refused.value.message
    assert vault.requests("register") == []


async def test_a_declared_client_is_of_its_issuer_only(alice: Any, vault: Vault) -> None:
    await connect(alice, vault, grant=CODE, client_id="ours", issuer=f"{vault.target.url}/another")
    with pytest.raises(SlipwayError, match="declared issuer"):
        await begin(alice, vault.name)


async def refused(who: Any, vault: Vault, response: dict[str, str]) -> str:
    with pytest.raises(SlipwayError) as error:
        await complete(who, vault.name, response)
    return error.value.reason


async def test_an_answer_counts_once_and_for_who_began(
    alice: Any, client: Callable[..., Any], target: Any, unique: Callable[[str], str], vault: Vault
) -> None:
    await connect(alice, vault)
    begun = await begin(alice, vault.name)
    response = vault.browse(begun.authorization_url)
    # Somebody else of the tenant, and another server: theirs it is not, and the login goes on.
    dave = client(subject="dave", roles=["platform-admin"])
    assert await refused(dave, vault, response) == "MCP_LOGIN_NOT_FOUND"
    other = Vault(target, unique("other"))
    await connect(alice, other)
    assert await refused(alice, other, response) == "MCP_LOGIN_NOT_FOUND"
    assert await refused(alice, vault, {**response, "state": "guessed"}) == "MCP_LOGIN_NOT_FOUND"
    assert vault.requests("token") == []

    assert (await complete(alice, vault.name, response)).state == pb.MCP_AUTHORIZATION_STATE_VALID
    assert await refused(alice, vault, response) == "MCP_LOGIN_NOT_FOUND"
    assert len(vault.requests("token")) == 1


async def test_a_code_of_somebody_else_gets_no_tokens(alice: Any, client: Callable[..., Any], vault: Vault) -> None:
    await connect(alice, vault)
    attacker = client(subject="mallory", roles=["developer"])
    theirs = vault.browse((await begin(attacker, vault.name)).authorization_url)
    begun = await begin(alice, vault.name)
    assert await refused(alice, vault, {**theirs, "state": begun.state}) == "MCP_LOGIN_FAILED"
    assert vault.access == {}


@pytest.mark.parametrize("iss", ["https://attacker.example", ""])
async def test_an_answer_of_another_issuer_sends_the_code_nowhere(alice: Any, vault: Vault, iss: str) -> None:
    await connect(alice, vault)
    response = {**vault.browse((await begin(alice, vault.name)).authorization_url), "iss": iss}
    assert await refused(alice, vault, response) == "MCP_LOGIN_FAILED"
    assert vault.requests("token") == []
    # It was taken out: the right answer comes too late.
    assert await refused(alice, vault, {**response, "iss": vault.issuer}) == "MCP_LOGIN_NOT_FOUND"


async def test_a_refusal_ends_the_login(alice: Any, vault: Vault) -> None:
    await connect(alice, vault)
    begun = await begin(alice, vault.name)
    response = {"state": begun.state, "error": "access_denied", "iss": vault.issuer}
    with pytest.raises(SlipwayError, match="access_denied"):
        await complete(alice, vault.name, response)
    assert await refused(alice, vault, response) == "MCP_LOGIN_NOT_FOUND"


def tokens(**changes: Any) -> Callable[[dict[str, str]], tuple[int, dict[str, Any]]]:
    return lambda _: (200, {"access_token": "t0ken-of-this-test", "token_type": "Bearer", "expires_in": 60, **changes})


ODD: dict[str, Callable[[dict[str, str]], tuple[int, dict[str, Any]]]] = {
    "for another audience": tokens(access_token=jwt(aud=["https://bank.example", "account"])),
    "not a bearer's": tokens(token_type="mac"),
    "two headers": tokens(access_token="a\r\nX-Admin: 1"),
    "too long": tokens(access_token="a" * 20_000),
    "none": lambda _: (200, {"token_type": "Bearer"}),
    "refused": lambda _: (400, {"error": "x" * 5000}),
}


@pytest.mark.parametrize("odd", ODD)
async def test_tokens_that_are_odd_or_for_others_are_not_kept(alice: Any, vault: Vault, odd: str) -> None:
    await connect(alice, vault)
    response = vault.browse((await begin(alice, vault.name)).authorization_url)
    vault.answer(f"/{vault.name}/as/token", ODD[odd])
    assert await refused(alice, vault, response) == "MCP_LOGIN_FAILED"
    server = (await alice.call("GetMcpServer", pb.GetMcpServerRequest(server=vault.name))).server
    assert server.authorization.state == pb.MCP_AUTHORIZATION_STATE_NONE


@pytest.mark.parametrize("kind", ["redirect", "giant"])
async def test_a_token_endpoint_that_misbehaves_gets_the_code_once(alice: Any, vault: Vault, kind: str) -> None:
    await connect(alice, vault)
    response = vault.browse((await begin(alice, vault.name)).authorization_url)
    elsewhere = f"/{vault.name}/elsewhere"
    if kind == "redirect":
        vault.target.answers[f"/{vault.name}/as/token"] = moved(f"{vault.target.url}{elsewhere}")
    else:
        giant("/{}/as/token")(vault)
    assert await refused(alice, vault, response) == "MCP_LOGIN_FAILED"
    assert vault.target.to(elsewhere) == []


async def test_a_token_names_this_server_or_what_is_declared_for_it(alice: Any, vault: Vault) -> None:
    vault.made_token = lambda: jwt(aud=["account", vault.server.url], n=len(vault.access))
    await connect(alice, vault)
    assert (await log_in(alice, vault)).state == pb.MCP_AUTHORIZATION_STATE_VALID
    vault.made_token = lambda: jwt(aud="api://crm")
    await connect(alice, vault, grant=CODE, audiences=["api://crm"])
    assert (await log_in(alice, vault)).state == pb.MCP_AUTHORIZATION_STATE_VALID


async def test_a_renewed_token_for_others_ends_the_login(alice: Any, client: Callable[..., Any], vault: Vault) -> None:
    await connect(alice, vault)
    await log_in(alice, vault)
    await approve(alice, client(subject="bob", roles=["reviewer"]), vault)
    vault.end_tokens()
    stolen = jwt(aud="https://bank.example")
    vault.made_token = lambda: stolen
    failed = await alice.invoke(f"{vault.name}.lookup", {"order": "A"})
    assert failed.error.code == "LOGIN_REQUIRED"
    assert all(stolen not in str(request.headers) for request in vault.target.to(vault.server.path))


async def test_the_token_goes_to_the_servers_address_only_and_comes_back_to_nobody(
    alice: Any, client: Callable[..., Any], vault: Vault
) -> None:
    await connect(alice, vault)
    await log_in(alice, vault)
    await approve(alice, client(subject="bob", roles=["reviewer"]), vault)
    [token] = vault.access
    vault.server.result = {"content": [{"type": "text", "text": f"you sent {token}"}]}
    answer = await alice.invoke(f"{vault.name}.lookup", {"order": "A"})
    assert token not in answer.output_json
    assert "[secret]" in answer.output_json

    elsewhere = f"/{vault.name}/elsewhere"
    vault.target.answers[vault.server.path] = moved(f"{vault.target.url}{elsewhere}")
    vault.target.answers[elsewhere] = lambda handler: respond(handler, b"{}", status=404)
    await alice.invoke(f"{vault.name}.lookup", {"order": "A"})
    assert vault.target.to(elsewhere)
    assert all("authorization" not in request.headers for request in vault.target.to(elsewhere))


async def test_logins_under_way_are_bounded(client: Callable[..., Any], alice: Any, vault: Vault) -> None:
    await connect(alice, vault, grant=CODE, client_id="ours", issuer=vault.issuer)
    eager = client(subject="eager", roles=["developer"])
    for _ in range(20):
        await begin(eager, vault.name)
    with pytest.raises(SlipwayError) as refusal:
        await begin(eager, vault.name)
    assert refusal.value.reason == "MCP_LOGINS_EXHAUSTED"
    assert (await begin(alice, vault.name)).state
