"""What `helm test` runs: it says what is away, and is content only when nothing is."""

import json
import runpy
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest
from chart_testing.variants import CHART


class Gateway(BaseHTTPRequestHandler):
    """Answers as a gateway does."""

    ready: ClassVar[tuple[int, dict[str, object]]] = (200, {})
    without_token: ClassVar[int] = 401

    def do_GET(self) -> None:
        status, body = self.ready if self.path == "/readyz" else (self.without_token, {})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
        """Nothing."""


@pytest.fixture
def gateway() -> Iterator[str]:
    """The address of one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("ready", "without_token", "found"),
    [
        ((200, {"status": "ok", "missing": {}, "degraded": {}}), 401, []),
        (
            (200, {"status": "degraded", "missing": {}, "degraded": {"memory": "UNAVAILABLE"}}),
            401,
            ["memory is away: UNAVAILABLE"],
        ),
        (
            (503, {"status": "not ready", "missing": {"postgres": "no answer in 3 s"}, "degraded": {}}),
            401,
            ["postgres is away: no answer in 3 s"],
        ),
        ((200, {"status": "ok"}), 200, ["a request without a token was answered with 200, not 401"]),
    ],
)
def test_it_names_what_is_wrong(
    gateway: str,
    monkeypatch: pytest.MonkeyPatch,
    ready: tuple[int, dict[str, object]],
    without_token: int,
    found: list[str],
) -> None:
    monkeypatch.setattr(Gateway, "ready", ready)
    monkeypatch.setattr(Gateway, "without_token", without_token)
    faults: Callable[[str], list[str]] = runpy.run_path(str(CHART / "files" / "release_test.py"))["faults"]
    assert faults(gateway) == found


def test_a_gateway_that_does_not_answer_is_said_to_be_so() -> None:
    faults: Callable[[str], list[str]] = runpy.run_path(str(CHART / "files" / "release_test.py"))["faults"]
    assert "does not answer" in faults("http://127.0.0.1:1")[0]
