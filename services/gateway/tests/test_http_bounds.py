"""What a connection may cost before and beside a request: raw HTTP over a socket."""

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest


class Raw:
    """A TCP connection to the gateway."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self.socket = socket.create_connection(("127.0.0.1", parts.port), timeout=30)

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, text: str) -> None:
        self.socket.sendall(text.encode("latin-1"))

    def read_all(self) -> str:
        """Everything until the server closes."""
        received = bytearray()
        try:
            while chunk := self.socket.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received.decode("latin-1")

    def statuses(self) -> list[int]:
        return [int(code) for code in re.findall(r"HTTP/1\.1 (\d{3})", self.read_all())]


def answers(url: str, text: str) -> list[int]:
    with Raw(url) as raw:
        raw.send(text)
        return raw.statuses()


@pytest.mark.parametrize(
    "head",
    [
        "GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: local host\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost:port\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: user@localhost\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: localhost/x\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        "GET /v1/runs/a%00b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /v1/runs/a%0d%0ab HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "NONSENSE\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
    ],
)
def test_a_malformed_head_is_400(gateway: Any, head: str) -> None:
    assert answers(gateway.url, head) == [400]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/"])
def test_head_answers_as_get_without_a_body(gateway: Any, path: str) -> None:
    read, asked = httpx.get(f"{gateway.url}{path}"), httpx.head(f"{gateway.url}{path}")
    assert (asked.status_code, asked.content) == (read.status_code, b"")
    assert asked.headers["content-length"] == read.headers["content-length"] != "0"


def test_a_host_that_is_not_ours_is_421(gateway: Any) -> None:
    answer = httpx.get(f"{gateway.url}/livez", headers={"Host": "rebound.example"})
    assert answer.status_code == 421
    assert answer.json()["code"] == "HOST_NOT_ALLOWED"


def test_content_length_with_transfer_encoding_smuggles_no_second_request(gateway: Any) -> None:
    body = "0\r\n\r\nGET /v1/whoami HTTP/1.1\r\nHost: localhost\r\n\r\n"
    text = (
        "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{body}"
    )
    assert answers(gateway.url, text) == [400]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("X-Long: " + "x" * 40_000 + "\r\n", 431),
        ("".join(f"X-{number}: y\r\n" for number in range(150)), 431),
        ("X: " + "y" * 3000 + "\r\n", 200),
    ],
    ids=["one long header", "many headers", "an ordinary long header"],
)
def test_the_size_of_a_head_is_bounded(gateway: Any, head: str, status: int) -> None:
    text = f"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n"
    assert answers(gateway.url, text) == [status]


def test_a_refused_head_has_a_trace_id_that_the_log_knows(gateway: Any) -> None:
    with Raw(gateway.url) as raw:
        raw.send("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: " + "x" * 40_000 + "\r\n\r\n")
        problem = json.loads(raw.read_all().partition("\r\n\r\n")[2])
    assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"])
    gateway.process.wait_for(problem["trace_id"])


def test_an_endless_header_is_cut_off(gateway: Any) -> None:
    with Raw(gateway.url) as raw:
        raw.send("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Endless: ")
        sent = 0
        try:
            while sent < 50_000_000:
                raw.send("x" * 65_536)
                sent += 65_536
        except OSError:
            pass
        assert sent < 20_000_000
        assert gateway.process.output.count("MemoryError") == 0


def test_a_long_target_is_414(gateway: Any) -> None:
    assert answers(gateway.url, f"GET /{'x' * 10_000} HTTP/1.1\r\nHost: localhost\r\n\r\n") == [414]


def test_an_unfinished_head_is_closed_after_ten_seconds(gateway: Any) -> None:
    started = time.monotonic()
    with Raw(gateway.url) as slow, Raw(gateway.url) as silent:
        slow.send("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        answer = slow.read_all()
        assert "408" in answer.splitlines()[0]
        assert json.loads(answer.partition("\r\n\r\n")[2])["code"] == "HTTP_MALFORMED"
        assert silent.read_all() == ""
    assert 8 < time.monotonic() - started < 25


def test_a_connection_that_is_used_again_gets_its_time_again(gateway: Any) -> None:
    request = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with Raw(gateway.url) as raw:
        for _ in range(3):
            raw.send(request)
            answer = b""
            while b'"ok"' not in answer:
                answer += raw.socket.recv(65536)
        raw.send(request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n") * 2)
        assert raw.statuses()[:1] == [200]


def test_trailers_do_not_become_headers(gateway: Any, issuer: Any, services: Any) -> None:
    text = (
        "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        f"Authorization: Bearer {issuer.token('alice')}\r\n\r\n"
    )
    assert answers(gateway.url, text) == [401]
    assert services.asked("CreateSession") == 0


def test_a_body_over_the_limit_is_413_before_it_is_read(alice: Any, gateway: Any, issuer: Any) -> None:
    answer = alice.post("/v1/sessions", content=b" " * 300_000, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["code"] == "BODY_TOO_LARGE"
    head = (
        f"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {issuer.token('alice')}\r\n"
        "Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
    )
    with Raw(gateway.url) as raw:
        raw.send(head)
        assert raw.statuses() == [413]


def test_a_chunked_body_over_the_limit_is_413(alice: Any) -> None:
    def endless() -> Any:
        for _ in range(1000):
            yield b" " * 4096

    answer = alice.post("/v1/sessions", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{", "line 1"),
        (b'{"labels": NaN}', "NaN"),
        (b'{"labels": Infinity}', "Infinity"),
        (b'{"ttl_seconds": 1e999}', "too large"),
        (b'{"ttl_seconds": 100, "ttl_seconds": 200}', "twice"),
        (b'{"labels": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested"),
        (b'{"labels": ' + b"[" * 70 + b"]" * 70 + b"}", "nested"),
        (b'{"labels": {"a": "\\ud800"}}', "surrogate"),
        (b'{"labels": {"a": "\\u0000"}}', "U+0000"),
        (b'{"labels": {"a": "\xff"}}', "UTF-8"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"ttl_seconds": ' + b"9" * 10_000 + b"}", "digits"),
    ],
)
def test_json_that_is_not_acceptable_is_400_and_says_why(alice: Any, body: bytes, complaint: str) -> None:
    answer = alice.post("/v1/sessions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "JSON_MALFORMED"
    assert complaint in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"7", b'{"labels": null}', b'{"labels": []}'])
def test_json_of_another_shape_is_422_or_the_default(alice: Any, services: Any, body: bytes) -> None:
    from slipway.memory.v1 import memory_pb2

    services.on("CreateSession", lambda call: memory_pb2.CreateSessionResponse())
    answer = alice.post("/v1/sessions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == (201 if body == b"null" else 422), answer.text


def test_another_media_type_is_415(alice: Any) -> None:
    answer = alice.post("/v1/sessions", content=b"a=b", headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 415
    assert answer.json()["field"] == "Content-Type"


def test_a_coded_body_is_415_and_never_read_as_plain(alice: Any, services: Any) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = alice.post("/v1/sessions", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["field"]) == (415, "Content-Encoding")
    assert services.asked("CreateSession") == 0


def test_a_missing_body_and_a_body_of_another_kind_say_what_to_send(alice: Any) -> None:
    headers = {"content-type": "application/json"}
    missing = alice.post("/v1/collections/c/search", content=b"", headers=headers).json()
    assert missing["detail"] == "the body is missing: send a JSON object"
    assert alice.post("/v1/collections/c/search", json=[1]).json()["detail"] == "send a JSON object"
    unknown = alice.post("/v1/collections/c/search", json={"query": "x", "limt": 1}).json()
    assert (unknown["field"], unknown["violations"][0]["message"]) == ("limt", "there is no such field")


def test_unknown_paths_and_methods_are_problems(alice: Any) -> None:
    missing = alice.get("/v1/nothing/here")
    assert (missing.status_code, missing.json()["code"]) == (404, "ROUTE_NOT_FOUND")
    wrong = alice.delete("/v1/whoami")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert "GET" in wrong.headers["allow"]
    assert alice.get("/v1/whoami/").status_code == 404


def test_a_burst_over_the_limit_is_429_with_the_time_to_wait(other_gateway: Callable[..., Any], issuer: Any) -> None:
    limited = other_gateway(RATE_BURST="3", RATE_PER_MINUTE="6")
    bearer = {"Authorization": f"Bearer {issuer.token('carol')}"}
    other = {"Authorization": f"Bearer {issuer.token('dave')}"}
    first = httpx.get(f"{limited.url}/v1/whoami", headers=bearer)
    assert first.headers["ratelimit-policy"] == '"requests";q=3;w=30'
    assert re.fullmatch(r'"requests";r=\d+;t=\d+', first.headers["ratelimit"])
    statuses = [httpx.get(f"{limited.url}/v1/whoami", headers=bearer).status_code for _ in range(6)]
    assert 429 in statuses
    refused = httpx.get(f"{limited.url}/v1/whoami", headers=bearer)
    assert refused.status_code == 429
    assert refused.json()["code"] == "RATE_LIMITED"
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    assert refused.headers["x-should-retry"] == "true"
    assert httpx.get(f"{limited.url}/v1/whoami", headers=other).status_code == 200, "others have buckets of their own"


def test_without_redis_requests_pass_and_the_degraded_mode_shows(
    other_gateway: Callable[..., Any], issuer: Any, free_port: Callable[[], int]
) -> None:
    degraded = other_gateway(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", RATE_BURST="1", RATE_PER_MINUTE="1")
    bearer = {"Authorization": f"Bearer {issuer.token('alice')}"}
    answers_ = [httpx.get(f"{degraded.url}/v1/whoami", headers=bearer) for _ in range(5)]
    assert [answer.status_code for answer in answers_] == [200] * 5
    assert "ratelimit" not in answers_[0].headers
    assert "rate_limit.degraded" in degraded.process.output
    metrics = httpx.get(f"{degraded.metrics_url}/metrics").text
    match = re.search(r"slipway_gateway_rate_limit_degraded_total (\d+)", metrics)
    assert match is not None
    assert float(match[1]) >= 5


def test_health_needs_no_token_and_metrics_have_a_port_of_their_own(gateway: Any) -> None:
    assert httpx.get(f"{gateway.url}/livez").json()["status"] == "ok"
    assert httpx.get(f"{gateway.url}/readyz").json()["missing"] == {}
    assert httpx.get(f"{gateway.url}/metrics").status_code == 404
    metrics = httpx.get(f"{gateway.metrics_url}/metrics").text
    assert 'slipway_http_requests_total{method="GET",route="/livez",status="200"}' in metrics


def test_no_credential_reaches_the_log(gateway: Any, issuer: Any) -> None:
    token = issuer.token("alice")
    httpx.get(f"{gateway.url}/v1/whoami", headers={"Authorization": f"Bearer {token}"})
    httpx.get(f"{gateway.url}/v1/whoami", headers={"Authorization": f"Bearer {token}x"})
    assert token[-40:] not in gateway.process.output
