"""Messages and files that are sent while servers fail: what was acknowledged is there once, in its order, as it was."""

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from slipway_cli.session import DevelopmentSignIn, NotSignedInError
from slipway_client.errors import ConnectionFailedError
from slipway_testkit.stack import Stack

_AGAIN = {429, 502, 503, 504}
_PATIENCE = 180


@dataclass
class Correspondence:
    """One session and some files of alice's."""

    stack: Stack
    session_id: str = ""
    messages: list[str] = field(default_factory=list[str])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def __post_init__(self) -> None:
        self._token = DevelopmentSignIn(self.stack.state.issuer, "alice")

    def begin(self) -> None:
        """Starts the session."""
        self.session_id = self._ask("POST", "/v1/sessions", json={}).json()["session_id"]

    def go_on(self, stop: threading.Event) -> None:
        """Sends a message and a file, and again, until told to stop."""
        while not stop.wait(0.5):
            text = f"message {len(self.messages)}"
            body = {"messages": [{"role": "user", "content": text}]}
            self._ask("POST", f"/v1/sessions/{self.session_id}/messages", json=body)
            self.messages.append(text)
            data = secrets.token_bytes(70_000)
            sent = self._ask("POST", "/v1/files", files={"file": ("a.bin", data)})
            self.files[sent.json()["file_id"]] = data

    def check(self) -> None:
        """All of it is there, and nothing twice."""
        with self.stack.as_user("alice") as alice:
            assert [message.content for message in alice.sessions.messages(self.session_id)] == self.messages
        for file_id, data in self.files.items():
            assert self._ask("GET", f"/v1/files/{file_id}/content").content == data, file_id

    def _ask(self, method: str, path: str, **body: Any) -> httpx.Response:
        """A request under one key, however often it has to be sent."""
        key, deadline = secrets.token_hex(8), time.monotonic() + _PATIENCE
        while True:
            try:
                headers = {"authorization": f"Bearer {self._token()}", "idempotency-key": key}
                answer = httpx.request(
                    method, f"{self.stack.url}{path}", headers=headers, timeout=60, trust_env=False, **body
                )
                if answer.status_code not in _AGAIN:
                    assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
                    return answer
                said = f"{answer.status_code} {answer.text}"
            except (httpx.TransportError, ConnectionFailedError, NotSignedInError) as error:
                said = repr(error)
            assert time.monotonic() < deadline, f"{method} {path}: {said}"
            time.sleep(0.2)
