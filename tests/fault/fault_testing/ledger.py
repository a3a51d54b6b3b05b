"""The outside world: a ledger over HTTP, and the oracle of what was done how often."""

import json
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HELD_SECONDS = 60


class Ledger:
    """Counts bookings by idempotency key; a repeated key is answered with the first answer and books nothing."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bookings: dict[str, dict[str, Any]] = {}
        self._requests: Counter[str] = Counter()
        self._held: set[str] = set()
        # Of the last request.
        self.authorization = ""
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def bookings(self, reference: str) -> list[dict[str, Any]]:
        """All bookings under a reference, whatever their keys: two keys for one reference are two bookings."""
        with self._changed:
            return [booking for booking in self._bookings.values() if booking["reference"] == reference]

    def booked(self, prefix: str) -> list[tuple[str, int]]:
        """Reference and amount of all bookings whose reference begins so, sorted."""
        with self._changed:
            all_of = self._bookings.values()
            return sorted((one["reference"], one["amount"]) for one in all_of if one["reference"].startswith(prefix))

    def requests(self, reference: str) -> int:
        """How many requests with a reference have arrived."""
        with self._changed:
            return self._requests[reference]

    def hold(self, reference: str) -> None:
        """Lets requests with this reference wait for `release`, before they are booked."""
        with self._changed:
            self._held.add(reference)

    def release(self, reference: str) -> None:
        """Books and answers what is held."""
        with self._changed:
            self._held.discard(reference)
            self._changed.notify_all()

    def wait_for_request(self, reference: str, seconds: float = 30) -> None:
        """Returns when a request with this reference has arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._requests[reference] > 0, seconds), f"{reference} never came"

    def post(self, key: str, entry: dict[str, Any]) -> dict[str, Any]:
        """Books an entry once per key."""
        reference = str(entry["reference"])
        with self._changed:
            self._requests[reference] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: reference not in self._held, _HELD_SECONDS)
            booking = self._bookings.setdefault(key, {**entry, "key": key})
            return {"booking_id": f"B-{booking['reference']}", "amount": booking["amount"]}


@contextmanager
def serve() -> Generator[Ledger]:
    """A ledger on a free port of this machine."""
    ledger = Ledger()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            ledger.authorization = self.headers.get("Authorization", "")
            entry = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = json.dumps(ledger.post(self.headers["Idempotency-Key"], entry)).encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except OSError:
                self.close_connection = True  # whoever asked was killed

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A caller that was killed breaks its connection; that is what these tests do."""

    server = Server(("127.0.0.1", 0), Handler)
    ledger.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield ledger
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
