"""A small HTTP server that answers as it is told and remembers what it was asked."""

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Asked:
    """A request as it came over the wire."""

    method: str
    path: str
    headers: Message
    body: bytes


class ScriptedServer:
    """Answers requests in the order in which `then` was called; a request more breaks its connection."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: deque[Answer] = deque()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                server.asked.append(Asked(self.command, self.path, self.headers, body))
                if not server.answers:
                    self.close_connection = True
                    return
                server.answers.popleft()(self)

            do_GET = do_POST = do_PUT = do_DELETE = _answer

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class has it
                """Nothing: the tests look at `asked`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def then(self, *answers: Answer) -> None:
        """Adds answers, one for each request to come."""
        self.answers.extend(answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the server and its thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def is_done(self) -> bool:
        """True when every answer was given."""
        return not self.answers


def answers(value: Any, status: int = 200, **headers: str) -> Answer:
    """A JSON answer, or with `bytes` those."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, text in {"content-type": "application/json", **headers}.items():
            handler.send_header(name.replace("_", "-"), text)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def streams(*chunks: bytes, breaks: bool = False) -> Answer:
    """A stream of server-sent events in chunks; one that `breaks` ends without the chunk that ends a body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            handler.wfile.flush()
        if breaks:
            handler.close_connection = True
        else:
            handler.wfile.write(b"0\r\n\r\n")

    return answer
