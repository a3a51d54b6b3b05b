"""An MCP server that does what it likes: JSON-RPC over HTTP in either era, every answer in the test's hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

TOOL = {
    "name": "lookup",
    "description": "Looks an order up.",
    "inputSchema": {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]},
}
STATELESS = {"resultType": "complete", "ttlMs": 3_600_000, "cacheScope": "public"}
Hook = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class PoisonedServer:
    """Answers at one path of the target. `legacy` servers know the handshake only; `call` answers calls by hand."""

    target: Any
    path: str
    tools: list[dict[str, Any]] = field(default_factory=lambda: [dict(TOOL)])
    result: dict[str, Any] = field(default_factory=lambda: {"content": [{"type": "text", "text": "open"}]})
    legacy: bool = False
    call: Hook | None = None
    every: Hook | None = None

    def __post_init__(self) -> None:
        self.target.answers[self.path] = self._answer

    @property
    def url(self) -> str:
        return f"{self.target.url}{self.path}"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The messages that came, in order."""
        return [json.loads(request.body) for request in self.target.to(self.path) if request.body]

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [message["params"] for message in self.asked if message.get("method") == "tools/call"]

    def change(self, **fields: Any) -> None:
        """What a rug pull is: the first tool becomes another."""
        self.tools[0] = {**self.tools[0], **fields}

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if self.every:
            self.every(handler)
            return
        if handler.command != "POST":
            respond(handler, b"", status=405 if handler.command == "GET" else 200)
            return
        message = self.asked[-1]
        method, number = message.get("method"), message.get("id")
        if number is None:
            respond(handler, b"", status=202)
        elif method == "tools/call" and self.call:
            self.call(handler)
        elif (found := self._result(str(method))) is None:
            error = {"code": -32601, "message": "Method not found"}
            respond(handler, json.dumps({"jsonrpc": "2.0", "id": number, "error": error}).encode())
        else:
            respond(
                handler, json.dumps({"jsonrpc": "2.0", "id": number, "result": found}).encode(), session=self.legacy
            )

    def _result(self, method: str) -> dict[str, Any] | None:
        marks = {} if self.legacy else STATELESS
        capabilities = {"tools": {}}
        info = {"name": "poison", "version": "1"}
        match method:
            case "initialize" if self.legacy:
                return {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
            case "server/discover" if not self.legacy:
                return {"supportedVersions": ["2026-07-28"], "capabilities": capabilities, **marks}
            case "tools/list":
                return {"tools": self.tools, **marks}
            case "tools/call":
                return {**self.result, **({} if self.legacy else {"resultType": "complete"})}
            case _:
                return None


def respond(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, session: bool = False) -> None:
    """One JSON answer."""
    handler.send_response(status)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(body)))
    if session:
        handler.send_header("mcp-session-id", "session-of-the-server")
    handler.end_headers()
    handler.wfile.write(body)
