"""Runs inside the sandbox: starts a server there, speaks MCP with it over its pipes, leaves the answer in result.json.

It uses the standard library only. The server shares the sandbox with it, so what it leaves is no more to be trusted
than the server's own words; whether a tool is what was pinned is decided outside, on the definition that came back,
before its result is used. Reads from standard input: `{"command", "environment", "call"}`.
"""

import json
import os
import subprocess
import sys
from typing import Any

HANDSHAKE = "2025-11-25"
STATELESS = "2026-07-28"
PAGES = 32
LINE = 2 << 20


class Refused(Exception):
    """The server answered with an error."""


def main() -> None:
    """One exchange: handshake, list, and the call if there is one."""
    asked = json.load(sys.stdin)
    command = asked["command"]
    if command[0] in ("python", "python3"):
        command = [sys.executable, *command[1:]]
    environment = {"PATH": "/usr/bin:/bin", "HOME": os.getcwd(), **asked["environment"]}
    server = subprocess.Popen(  # noqa: S603 - in the sandbox
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    talk = Talk(server)
    answer: dict[str, Any] = {"protocol_version": talk.connect(), "tools": talk.tools()}
    call = asked["call"]
    if call:
        listed = [tool for tool in answer["tools"] if tool.get("name") == call["name"]]
        # Compared outside as well, where it counts; here it keeps a changed tool from being called at all.
        if len(listed) == 1 and pinned(listed[0]) == call["pinned"]:
            try:
                answer["result"] = talk.request("tools/call", {"name": call["name"], "arguments": call["arguments"]})
            except Refused as error:
                answer["error"] = str(error)
        answer["tools"] = listed
    with open("result.json", "w") as result:
        json.dump(answer, result)
    server.kill()


def pinned(tool: dict[str, Any]) -> dict[str, Any]:
    """What is pinned of a tool."""
    return {
        "name": tool.get("name"),
        "description": tool.get("description") or "",
        "inputSchema": tool.get("inputSchema"),
        "outputSchema": tool.get("outputSchema"),
    }


class Talk:
    """JSON-RPC over the server's pipes, a message a line."""

    def __init__(self, server: "subprocess.Popen[bytes]") -> None:
        self._stdin: Any = server.stdin
        self._stdout: Any = server.stdout
        self._next = 0
        self._meta: dict[str, Any] = {}

    def connect(self) -> str:
        """The revision that the server speaks: with a handshake, or without one."""
        identity = {"name": "slipway", "version": "1"}
        try:
            offered = self.request(
                "initialize", {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": identity}
            )
        except Refused:
            self._meta = {
                "io.modelcontextprotocol/protocolVersion": STATELESS,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": identity,
            }
            self.request("server/discover", {})
            return STATELESS
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return str(offered.get("protocolVersion"))

    def tools(self) -> list[Any]:
        """All tools, page by page."""
        found: list[Any] = []
        cursor = None
        for _ in range(PAGES):
            page = self.request("tools/list", {"cursor": cursor} if cursor else {})
            found += page.get("tools", [])
            cursor = page.get("nextCursor")
            if not cursor:
                return found
        sys.exit("the list of tools has no end")

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of a request; raises Refused."""
        self._next += 1
        number = self._next
        if self._meta:
            params = {**params, "_meta": self._meta}
        self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        while True:
            line = self._stdout.readline(LINE)
            if not line:
                sys.exit("the server ended without an answer")
            if len(line) == LINE:
                sys.exit(f"the server answered a line of more than {LINE} bytes")
            try:
                message = json.loads(line)
            except ValueError:
                continue  # servers print to standard output although they must not
            if not isinstance(message, dict):
                continue
            if "method" in message:
                if "id" in message:
                    self._decline(message)
            elif message.get("id") == number:
                if "error" in message:
                    raise Refused(str((message["error"] or {}).get("message"))[:200])
                result = message.get("result")
                if not isinstance(result, dict):
                    sys.exit("the server's result is no object")
                return result

    def _decline(self, message: dict[str, Any]) -> None:
        """Nobody here samples, elicits or has roots; a ping is answered."""
        if message["method"] == "ping":
            answer: dict[str, Any] = {"result": {}}
        else:
            answer = {"error": {"code": -32601, "message": "not supported"}}
        self._send({"jsonrpc": "2.0", "id": message["id"], **answer})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()
        except OSError:
            sys.exit("the server ended without an answer")


main()
