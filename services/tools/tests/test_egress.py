"""The network of sandboxed programs: what the rules allow, through the proxy, and nothing else."""

import asyncio
import contextlib
import json
import os
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from slipway_chassis.bus import Message, open_bus
from slipway_tools.egress.authority import Authority

SECRET = "Bearer s3cr3t-for-egress"
FETCH = """
import json, os, socket, urllib.request, urllib.error
def fetch(url, method="GET", data=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, method=method, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return [answer.status, answer.read().decode(), dict(answer.headers)]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode(), dict(error.headers)]
    except Exception as error:
        return [0, repr(error), {}]
def raw(data, proxy=("127.0.0.1", 3128)):
    with socket.create_connection(proxy, 10) as link:
        link.sendall(data)
        got = b""
        try:
            while part := link.recv(65536):
                got += part
        except OSError:
            pass
        return got.decode(errors="replace")
def out(value):
    json.dump(value, open("result.json", "w"))
"""


class Upstream:
    """An HTTP or HTTPS server on a loopback address that keeps what it received."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.received: list[tuple[str, str, dict[str, str], bytes]] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                upstream.received.append((self.command, self.path, headers, body))
                path = self.path.partition("?")[0]
                if path == "/v1/redirect":
                    self.send(302, b"", Location="http://169.254.169.254/latest/meta-data/")
                elif path == "/v1/large":
                    self.send(200, b"x" * 300_000)
                elif path == "/v1/echo":
                    self.send(200, json.dumps(headers).encode(), X_Echo=headers.get("authorization", ""))
                else:
                    self.send(200, b"hello")

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def send(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.received]


@pytest.fixture(scope="module")
def plain() -> Iterator[Upstream]:
    upstream = Upstream(None)
    yield upstream
    upstream.server.shutdown()
    upstream.server.server_close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[Upstream]:
    upstream = Upstream(authority.context("localhost"))
    yield upstream
    upstream.server.shutdown()
    upstream.server.server_close()


class Rules:
    """The file of rules, as the platform team edits it."""

    def __init__(self, file: Path, plain: Upstream, secure: Upstream) -> None:
        self.file = file
        self._changes = 0
        self.usual = {
            "python": {
                "tenants": ["acme"],
                "allow": [
                    {
                        "host": "localhost",
                        "port": secure.port,
                        "methods": ["GET", "POST"],
                        "paths": ["/v1/*"],
                        "headers": {"Authorization": "secret:egress"},
                    },
                    {"host": "localhost", "scheme": "http", "port": plain.port, "paths": ["/v1/*"]},
                    {"host": "*", "scheme": "http", "paths": ["/*"]},
                    {"host": "*", "scheme": "http", "port": 8080, "paths": ["/*"]},
                ],
                "limits": {"requests": 40, "request_bytes": 10_000, "response_bytes": 200_000},
            }
        }
        self.write(json.dumps(self.usual))

    def write(self, text: str) -> None:
        # In place of the old one, as editors and Kubernetes do it: another inode, so a change whatever the clock says.
        self._changes += 1
        new = self.file.with_name(f"new-{self._changes}")
        new.write_text(text)
        os.replace(new, self.file)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory, plain: Upstream, secure: Upstream) -> Rules:
    return Rules(tmp_path_factory.mktemp("rules") / "egress.yaml", plain, secure)


@pytest.fixture(scope="module")
def networked(
    start_tools: Any,
    rules: Rules,
    plain: Upstream,
    secure: Upstream,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A tools process whose `python` may use the network, and which trusts the secure upstream's authority."""
    folder = tmp_path_factory.mktemp("egress")
    (folder / "ca.pem").write_bytes(authority.pem)
    secrets = folder / "secrets.yaml"
    secrets.write_text(f'egress: {{value: "{SECRET}", tenants: [acme], hosts: [localhost]}}\n')
    secrets.chmod(0o600)
    return start_tools(
        before=f"SSL_CERT_FILE={folder}/ca.pem exec",
        EGRESS_FILE=str(rules.file),
        SECRETS_FILE=str(secrets),
        HTTP_ALLOW=f"localhost:{plain.port},localhost:{secure.port}",
    )


@pytest.fixture
def fetch(networked: Any, client: Any) -> Any:
    """Runs the last lines of a program that fetches, and gives what they put out."""
    alice = client(networked.target)

    async def run(code: str, **arguments: Any) -> Any:
        answer = await alice.python(FETCH + code, **arguments)
        assert not answer.HasField("error"), answer
        return json.loads(answer.output_json)

    return run


async def test_what_is_allowed_is_reached_in_the_clear_and_over_tls(
    fetch: Any, plain: Upstream, secure: Upstream
) -> None:
    got = await fetch(
        f"out([fetch('http://localhost:{plain.port}/v1/a?q=1'), fetch('https://localhost:{secure.port}/v1/b')])"
    )
    assert [(status, body) for status, body, _ in got] == [(200, "hello"), (200, "hello")]
    assert "/v1/a?q=1" in plain.paths()
    assert "/v1/b" in secure.paths()


async def test_credentials_are_added_outside_and_an_echo_of_them_is_cleaned(fetch: Any, secure: Upstream) -> None:
    status, body, headers = await fetch(
        f"out(fetch('https://localhost:{secure.port}/v1/echo', 'POST', b'x', Authorization='Bearer forged'))"
    )
    assert status == 200
    sent = next(headers for _, path, headers, _ in reversed(secure.received) if path == "/v1/echo")
    assert sent["authorization"] == SECRET
    assert "s3cr3t" not in body + json.dumps(headers)
    assert "[secret]" in body


REFUSED = {
    "fetch('http://localhost:{plain}/v2/a')": 403,
    "fetch('http://localhost:{plain}/v1/a', 'DELETE')": 403,
    "fetch('http://localhost:{plain}/v1/../v2/a')": 403,
    "fetch('http://localhost:{plain}/v1/%2e%2e/v2/a')": 403,
    "fetch('http://localhost:{plain}/v1/%252e%252e/v2/a')": 403,
    "fetch('http://localhost:{plain}/v1/..%2fv2/a')": 403,
    "fetch('http://localhost:{plain}/v1//v2')": 403,
    "fetch('https://localhost:{secure}/v2/a')": 403,
    "fetch('https://localhost:{secure}/v1/a', 'PUT', b'x')": 403,
    "fetch('https://localhost:{secure}/v1/a', Host='elsewhere.example')": 421,
    "fetch('https://localhost:{plain}/v1/a')": 0,
    "fetch('https://elsewhere.example/v1/a')": 0,
    "fetch('http://127.0.0.1/')": 403,
    "fetch('http://2130706433/')": 403,
    "fetch('http://0x7f000001/')": 403,
    "fetch('http://0177.0.0.1/')": 403,
    "fetch('http://127.1/')": 403,
    "fetch('http://0/')": 403,
    "fetch('http://[::1]/')": 403,
    "fetch('http://[::ffff:127.0.0.1]/')": 403,
    "fetch('http://[::ffff:169.254.169.254]/')": 403,
    "fetch('http://[64:ff9b::7f00:1]/')": 403,
    "fetch('http://[fd00::1]/')": 403,
    "fetch('http://[fe80::1]/')": 403,
    "fetch('http://169.254.169.254/latest/meta-data/')": 403,
    "fetch('http://169.254.169.254:8080/')": 403,
    "fetch('http://10.0.0.1/')": 403,
    "fetch('http://172.16.0.1/')": 403,
    "fetch('http://192.168.0.1/')": 403,
    "fetch('http://100.64.0.1/')": 403,
    "fetch('http://localhost/')": 403,
    "fetch('http://localhost./')": 403,
    "fetch('http://LOCALHOST:8080/')": 403,
}


async def test_what_is_not_allowed_is_refused(fetch: Any, plain: Upstream, secure: Upstream) -> None:
    before = len(plain.received), len(secure.received)
    tries = ", ".join(what.format(plain=plain.port, secure=secure.port) for what in REFUSED)
    got = await fetch(f"out([{tries}])", timeout_seconds=60)
    statuses = {what: answer[0] for what, answer in zip(REFUSED, got, strict=True)}
    assert statuses == REFUSED, got
    assert (len(plain.received), len(secure.received)) == before


HIDDEN_STEPS = [
    "..;/v2",
    "..;a=b/v2",
    ".;/v2",
    "%2e%2e;/v2",
    "..%3b/v2",
    "..%20/v2",
    "%c0%ae%c0%ae/v2",
    "..%c0%afv2",
    "%ef%bc%8e%ef%bc%8e/v2",
    "%ef%bc%8fv2",
    "%u002e%u002e/v2",
    ".../v2",
]


async def test_a_step_up_that_only_some_servers_see_is_refused(fetch: Any, plain: Upstream) -> None:
    before = len(plain.received)
    tries = ", ".join(f"fetch('http://localhost:{plain.port}/v1/{path}')" for path in HIDDEN_STEPS)
    answers = await fetch(f"out([{tries}])")
    assert {path: answer[0] for path, answer in zip(HIDDEN_STEPS, answers, strict=True)} == dict.fromkeys(
        HIDDEN_STEPS, 403
    )
    assert len(plain.received) == before
    kept = ["a;b=c/d", "100%25", "%C3%A4/a%20b", "v..w/.well-known/x", "~!$&'()*+,;=:@"]
    kept_as = ", ".join(f'fetch("http://localhost:{plain.port}/v1/{path}")[0]' for path in kept)
    assert await fetch(f"out([{kept_as}])") == [200] * len(kept)


async def test_a_fragment_hides_no_path_in_a_tunnel(fetch: Any, secure: Upstream) -> None:
    got = await fetch(
        "import http.client, ssl\n"
        "proxy = http.client.HTTPSConnection('127.0.0.1', 3128, context=ssl.create_default_context())\n"
        f"proxy.set_tunnel('localhost', {secure.port})\n"
        "proxy.request('GET', '/v2/a#/v1/b')\nout(proxy.getresponse().status)"
    )
    assert got == 403


async def test_headers_that_would_change_method_path_or_credentials_are_left_out(fetch: Any, secure: Upstream) -> None:
    await fetch(
        "names = ('X-HTTP-Method-Override', 'X-HTTP-Method', 'X-Method-Override', 'X-Original-URL', 'X-Rewrite-URL',\n"
        "    'X_HTTP_Method_Override', 'X_Original_URL', 'Authorization')\n"
        f"out(fetch('https://localhost:{secure.port}/v1/headers', 'POST', b'x', **{{'X-Other': 'kept'}},"
        " **dict.fromkeys(names, 'forged')))"
    )
    sent = next(headers for _, path, headers, _ in reversed(secure.received) if path == "/v1/headers")
    assert sent["x-other"] == "kept"
    assert "forged" not in sent.values()


async def test_a_program_can_not_take_all_connections_of_the_proxy(fetch: Any, plain: Upstream) -> None:
    held, answered = await fetch(
        "import select\n"
        "connections = []\n"
        "for _ in range(120):\n"
        "    one = socket.socket(socket.AF_UNIX)\n"
        "    one.settimeout(5)\n"
        "    one.connect('/run/egress/proxy.sock')\n"
        "    try: one.send(b'GET http://')\n"
        "    except BrokenPipeError: pass\n"  # ended already
        "    connections.append(one)\n"
        "    select.select([one], [], [], 0.01)\n"
        "import time\n"
        "ended, until = set(), time.monotonic() + 10\n"
        "while len(ended) < 56 and time.monotonic() < until:\n"
        "    ended |= set(select.select([one for one in connections if one not in ended], [], [], 0.2)[0])\n"
        "for one in connections: one.close()\n"
        "answered = 0\n"
        "while not answered:\n"
        f"    answered = fetch('http://localhost:{plain.port}/v1/a')[0]\n"
        "out([120 - len(ended), answered])"
    )
    assert (held, answered) == (64, 200)


async def test_a_tunnel_goes_to_what_a_rule_names_only_and_speaks_http_only(
    fetch: Any, plain: Upstream, secure: Upstream
) -> None:
    targets = [
        f"localhost:{plain.port}",
        "169.254.169.254:443",
        "localhost:22",
        "[::1]:443",
        "8.8.8.8:53",
        "x@localhost:1",
    ]
    got = await fetch(
        f"out([raw(f'CONNECT {{t}} HTTP/1.1\\r\\nHost: {{t}}\\r\\n\\r\\n'.encode()) for t in {targets!r}])"
    )
    assert all(answer.startswith("HTTP/1.1 40") for answer in got), got
    before = len(secure.received)
    relayed = await fetch(
        f"tunnel = b'CONNECT localhost:{secure.port} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'\n"
        "out(raw(tunnel + b'GET /v1/b HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'))"
    )
    assert "hello" not in relayed
    assert len(secure.received) == before


async def test_a_redirect_is_handed_back_and_following_it_is_refused(fetch: Any, plain: Upstream) -> None:
    got = await fetch(f"out(fetch('http://localhost:{plain.port}/v1/redirect'))")
    assert got[0] == 403
    assert "not public" in got[1]


async def test_there_is_no_other_way_out(fetch: Any, plain: Upstream) -> None:
    got = await fetch(
        "def attempt(make):\n"
        "    try: return ['done', repr(make())]\n"
        "    except OSError as error: return ['refused', repr(error)]\n"
        "out([attempt(make) for make in (\n"
        f"    lambda: socket.create_connection(('127.0.0.1', {plain.port}), 1),\n"
        "    lambda: socket.create_connection(('8.8.8.8', 53), 1),\n"
        "    lambda: socket.create_connection(('169.254.169.254', 80), 1),\n"
        "    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),\n"
        "    lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),\n"
        "    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW),\n"
        "    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),\n"
        "    lambda: socket.getaddrinfo('exfiltrated-data.example.com', 80),\n"
        "    lambda: open('/run/egress/ca.pem', 'w'),\n"
        "    lambda: os.unlink('/run/egress/proxy.sock'),\n"
        ")])"
    )
    assert {outcome for outcome, _ in got} == {"refused"}, got


async def test_bytes_and_requests_are_bounded(fetch: Any, plain: Upstream, secure: Upstream) -> None:
    large, sent, many = await fetch(
        f"large = fetch('http://localhost:{plain.port}/v1/large')\n"
        f"sent = fetch('https://localhost:{secure.port}/v1/b', 'POST', b'x' * 20_000)\n"
        f"many = [fetch('http://localhost:{plain.port}/v2/no')[0] for _ in range(40)]\n"
        f"out([large, sent, fetch('http://localhost:{plain.port}/v1/a')])"
    )
    assert (large[0], sent[0], many[0]) == (0, 413, 429)


async def test_a_tool_or_tenant_without_rules_has_no_network(networked: Any, client: Any) -> None:
    gina = client(networked.target, subject="gina", tenant="globex")
    answer = await gina.python(
        "import os, socket\nprint('HTTP_PROXY' in os.environ)\nsocket.create_connection(('127.0.0.1', 3128))"
    )
    assert answer.stdout == "False\n"
    assert "Operation not permitted" in answer.error.message


async def test_a_program_in_another_language_uses_the_proxy_too(
    networked: Any, client: Any, rules: Rules, plain: Upstream
) -> None:
    rules.write(json.dumps({**rules.usual, "shell": rules.usual["python"]}))
    answer = await client(networked.target).invoke("shell", {"code": "echo $http_proxy"})
    assert answer.stdout == "http://127.0.0.1:3128\n"


@pytest.mark.parametrize("text", ["python: [", "python: {allow: [{host: localhost, ports: 1}]}", "- a", None])
async def test_rules_that_can_not_be_read_close_the_network_also_for_a_program_that_runs(
    fetch: Any, rules: Rules, plain: Upstream, eventually: Any, text: str | None
) -> None:
    rules.write(json.dumps(rules.usual))
    url = f"http://localhost:{plain.port}/v1/a"
    first = len(plain.received)
    call = asyncio.create_task(
        fetch(
            f"import time\nfound = [fetch({url!r})[0]]\n"
            f"while found[-1] == 200 and len(found) < 35: time.sleep(0.1); found.append(fetch({url!r})[0])\nout(found)"
        )
    )
    await eventually(lambda: len(plain.received) > first)
    if text is None:
        rules.file.unlink()
    else:
        rules.write(text)
    assert (await call)[-1] == 403
    rules.write(json.dumps(rules.usual))
    assert (await fetch(f"out(fetch({url!r}))"))[0] == 200


async def test_a_session_has_the_network_in_every_call(
    fetch: Any, plain: Upstream, networked: Any, client: Any
) -> None:
    url = f"http://localhost:{plain.port}/v1/a"
    for _ in range(2):
        assert (await fetch(f"out(fetch({url!r}))", session="web"))[0] == 200


async def test_every_request_is_in_the_audit_trail_before_its_answer_is(
    fetch: Any, networked: Any, plain: Upstream, valkey_url: str
) -> None:
    found: list[dict[str, Any]] = []
    mark = f"audit-{os.urandom(4).hex()}"
    complete = asyncio.Event()

    async def keep(message: Message, _deliveries: int) -> None:
        event = json.loads(json.loads(message.body)["event"])
        if event["type"] == "tool.egress" and mark in json.dumps(event["data"]):
            found.append(event)
            if len(found) == 2:
                complete.set()

    bus = await open_bus(valkey_url)
    consuming = asyncio.create_task(bus.consume("audit.events", f"egress-{mark}", keep))
    try:
        await fetch(
            f"fetch('http://localhost:{plain.port}/v1/{mark}?data=private')\n"
            f"out(fetch('http://169.254.169.254/{mark}'))"
        )
        async with asyncio.timeout(20):
            await complete.wait()
    finally:
        consuming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await consuming
        await bus.close()
    allowed, refused = sorted(found, key=lambda event: event["data"]["outcome"] != "allowed")
    assert allowed["subject"] == "alice"
    assert allowed["data"] == {
        "tool": "python",
        "outcome": "allowed",
        "method": "GET",
        "url": f"http://localhost:{plain.port}/v1/{mark}",
        "query_bytes": "12",
        "address": "127.0.0.1",
        "status": 200,
        "request_bytes": 0,
    }
    assert refused["data"]["outcome"] == "address"
