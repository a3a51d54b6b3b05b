"""What a tool answers: its output or its failure, and what is worth recording about the call."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolFailure:
    """A tool ran and failed. `retry_after` in seconds; None: at once."""

    code: str
    message: str
    retryable: bool = False
    retry_after: float | None = None


@dataclass(frozen=True)
class ToolResult:
    """How a call went. `output_json` is JSON text, empty after a failure.

    `evidence` are further facts for the audit record: JSON without floats, without secrets.
    """

    output_json: str = ""
    failure: ToolFailure | None = None
    stdout: str = ""
    stderr: str = ""
    exit_status: int = 0
    sandbox: str = ""
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
