"""Files, tools, models, usage and audit: small areas of the API, a class each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipway_client.models import File, Record, Tool, ToolResult
from slipway_client.transport import Transport


class Files:
    """`/v1/files`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, path: Path, *, filename: str | None = None) -> File:
        """Uploads a file; its id can be given to runs."""
        with path.open("rb") as handle:
            answer = self._transport.call(
                "POST", "/v1/files", files={"file": (filename or path.name, handle)}, timeout=300
            )
        return File.model_validate(answer)

    def get(self, file_id: str) -> File:
        """A file's description."""
        return File.model_validate(self._transport.call("GET", f"/v1/files/{file_id}"))

    def content(self, file_id: str) -> bytes:
        """A file's bytes."""
        with self._transport.stream(f"/v1/files/{file_id}/content", timeout=300) as response:
            return response.read()

    def delete(self, file_id: str) -> None:
        """Removes a file."""
        self._transport.call("DELETE", f"/v1/files/{file_id}")


class Tools:
    """`/v1/tools`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def put(self, tool: str, declaration: dict[str, Any]) -> Tool:
        """Declares an HTTP tool."""
        return Tool.model_validate(self._transport.call("PUT", f"/v1/tools/{tool}", json=declaration))

    def list(self) -> Iterator[Tool]:
        """The tools that the caller may see."""
        return self._transport.pages("/v1/tools", "tools", Tool)

    def invoke(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        """Calls a tool."""
        body = {"arguments": arguments}
        return ToolResult.model_validate(
            self._transport.call("POST", f"/v1/tools/{tool}/invoke", json=body, timeout=330)
        )


class Models:
    """`/v1/models` and `/v1/chat/completions`; any OpenAI SDK does for chat, too."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Record]:
        """Models and routes that the caller may use."""
        return [Record.model_validate(one) for one in self._transport.call("GET", "/v1/models")["data"]]

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """One chat completion, in OpenAI's wire format."""
        return self._transport.call("POST", "/v1/chat/completions", json=body, timeout=300)


class Usage:
    """`/v1/usage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def summary(self, group_by: str) -> list[Record]:
        """Usage of the tenant, added up by model, subject, run, task, provider or day."""
        answer = self._transport.call("GET", "/v1/usage", params={"group_by": group_by})
        return [Record.model_validate(one) for one in answer["groups"]]


class Audit:
    """`/v1/audit` and the evidence of runs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def evidence(self, run_id: str) -> bytes:
        """The evidence bundle of a run, as it is to be kept."""
        with self._transport.stream(f"/v1/runs/{run_id}/evidence", timeout=120) as response:
            return response.read()

    def checkpoint(self) -> Record:
        """The newest signed checkpoint of the tenant's log, with the verifier key."""
        return Record.model_validate(self._transport.call("GET", "/v1/audit/checkpoint"))

    def events(self, *, run_id: str | None = None) -> Iterator[Record]:
        """The tenant's audit log."""
        return self._transport.pages("/v1/audit/events", "events", Record, {"run_id": run_id})
