"""What a tool answers: its output or its failure, and what is worth recording about the call."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ToolFailure:
    """A tool ran and failed. `retry_after` in seconds; None: at once. `limit`: the one that it reached, or empty."""

    code: str
    message: str
    retryable: bool = False
    retry_after: float | None = None
    limit: str = ""


@dataclass(frozen=True)
class StoredFile:
    """A file that a program left, and where it is kept now."""

    name: str
    file_id: str
    content_type: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Usage:
    """What a program used."""

    cpu_ms: int = 0
    peak_memory: int = 0
    egress_requests: int = 0


@dataclass(frozen=True)
class SessionView:
    """The session of a call: `expire_time` as RFC 3339; names and sizes of the files in its workspace.

    `tainted`: a call with arguments from outside was made in it, so that all it holds may derive from them.
    """

    name: str
    created: bool
    expire_time: str
    files: list[tuple[str, int]]
    free_bytes: int
    tainted: bool = False


@dataclass(frozen=True)
class SandboxFacts:
    """What a sandboxed program left and used."""

    files: list[StoredFile] = field(default_factory=list[StoredFile])
    usage: Usage = field(default_factory=Usage)
    session: SessionView | None = None

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> "SandboxFacts":
        """From what `dataclasses.asdict` and JSON made of it."""
        session: dict[str, Any] | None = fields["session"]
        view: SessionView | None = None
        if session is not None:
            listed: list[tuple[str, int]] = [(name, size) for name, size in session.pop("files")]
            view = SessionView(**session, files=listed)
        return cls([StoredFile(**file) for file in fields["files"]], Usage(**fields["usage"]), view)


@dataclass(frozen=True)
class ToolResult:
    """How a call went. `output_json` is JSON text, empty after a failure.

    `evidence` are further facts for the audit record: JSON without floats, without secrets. `facts` may be given as
    the dictionary that JSON made of it.
    """

    output_json: str = ""
    failure: ToolFailure | None = None
    stdout: str = ""
    stderr: str = ""
    exit_status: int = 0
    sandbox: str = ""
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    facts: SandboxFacts | None = None

    @property
    def tainted(self) -> bool:
        """True when it may derive from what came from outside by the session that the call was made in."""
        return self.facts is not None and self.facts.session is not None and self.facts.session.tainted

    def __post_init__(self) -> None:
        """Read `facts` back from JSON: the effect ledger keeps results as that."""
        if isinstance(self.facts, dict):
            object.__setattr__(self, "facts", SandboxFacts.from_fields(self.facts))
