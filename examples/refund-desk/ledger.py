"""The ledger that refunds are posted to: a stand-in for the company's accounting system.

It keeps the contract that Slipway asks of a tool marked `idempotent`: a repeated Idempotency-Key is answered with the
first answer and books nothing. Usage: ledger.py PORT FILE, with the bearer token in LEDGER_TOKEN.
"""

import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

_LIMIT = 64 * 1024


class Ledger:
    """Bookings by idempotency key, one JSON line each, synced before the answer."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = Lock()
        self._booked: dict[str, dict[str, object]] = {}
        if file.exists():
            for line in file.read_text().splitlines():
                booking = json.loads(line)
                self._booked[booking["key"]] = booking

    def post(self, key: str, entry: dict[str, object]) -> dict[str, object]:
        """Books an entry once."""
        with self._lock:
            if key not in self._booked:
                booking: dict[str, object] = {"key": key, "booking_id": f"B-{len(self._booked) + 1:05}", **entry}
                with self._file.open("a") as handle:
                    handle.write(json.dumps(booking) + "\n")
                    handle.flush()
                    os.fsync(handle.fileno())
                self._booked[key] = booking
            return self._booked[key]


class Handler(BaseHTTPRequestHandler):
    """`POST /bookings`."""

    ledger: Ledger
    token: str

    def do_POST(self) -> None:
        """Books what the body holds."""
        if not hmac.compare_digest(self.headers.get("Authorization", ""), f"Bearer {self.token}"):
            self._answer(401, {"error": "wrong token"})
            return
        key = self.headers.get("Idempotency-Key", "")
        size = int(self.headers.get("Content-Length", "0"))
        if self.path != "/bookings" or not key or not 0 < size <= _LIMIT:
            self._answer(400, {"error": "POST /bookings with an Idempotency-Key and a small JSON body"})
            return
        entry = json.loads(self.rfile.read(size))
        booking = self.ledger.post(key, entry)
        self._answer(201, {"booking_id": booking["booking_id"], "amount": booking.get("amount")})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name
        """Says nothing: the terminal belongs to the tour."""


def main() -> None:
    """Serves until it is ended."""
    Handler.token = os.environ["LEDGER_TOKEN"]
    Handler.ledger = Ledger(Path(sys.argv[2]))
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()


if __name__ == "__main__":
    main()
