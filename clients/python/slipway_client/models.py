"""What the API answers with. Fields that a newer gateway adds are kept and do no harm."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """An answer of the API."""

    model_config = ConfigDict(extra="allow", frozen=True)


class AgentVersion(Record):
    """One immutable version of an agent."""

    agent: str
    version: int
    digest: str
    state: str
    author: str = ""
    submitter: str = ""
    reviewer: str = ""
    in_production: bool = False


class Agent(Record):
    """A name with versions."""

    agent: str
    description: str = ""
    production_version: int | None = None
    latest_version: int = 0


class RunError(Record):
    """Why a run failed."""

    code: str
    message: str
    step: str | None = None


class RunUsage(Record):
    """What a run used; cost in US dollars."""

    steps: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)


class Run(Record):
    """One execution of an agent version."""

    run_id: str
    agent: str = ""
    version: int = 0
    state: str
    input: Any = None
    output: Any = None
    error: RunError | None = None
    usage: RunUsage = Field(default_factory=RunUsage)
    caller: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    session_id: str | None = None
    create_time: datetime | None = None
    end_time: datetime | None = None
    trace_id: str = ""
    pending_approval_ids: list[str] = Field(default_factory=list)

    @property
    def ended(self) -> bool:
        """True when the run will not change any more."""
        return self.state in {"SUCCEEDED", "FAILED", "CANCELLED"}


class RunEvent(Record):
    """A row of a run's journal, or (with `seq` None) a piece of a model's answer as it is written."""

    seq: int | None = None
    time: datetime | None = None
    kind: str
    step_id: str | None = None
    data: Any = None


class Approval(Record):
    """A gate in a run."""

    approval_id: str
    run_id: str
    step_id: str = ""
    agent_version: str = ""
    state: str
    tool: str | None = None
    arguments: Any = None
    arguments_digest: str
    approvers: list[str] = Field(default_factory=list)
    proposer: str = ""
    decider: str | None = None
    message: str | None = None
    expire_time: datetime | None = None


class Collection(Record):
    """A set of documents."""

    collection: str
    description: str = ""
    document_count: int = 0
    chunk_count: int = 0


class Document(Record):
    """A file in a collection."""

    collection: str
    document: str
    title: str = ""
    state: str
    error: str | None = None
    chunk_count: int = 0
    indexed_chunk_count: int = 0
    size_bytes: int = 0


class Passage(Record):
    """A chunk that was found, and where it stands in its document."""

    passage_id: str
    document: str
    title: str = ""
    headings: list[str] = Field(default_factory=list)
    page: int | None = None
    text: str
    score: float = 0.0


class File(Record):
    """Bytes with an owner."""

    file_id: str
    filename: str
    size_bytes: int = 0
    digest: str = ""


class Tool(Record):
    """Something an agent can call."""

    tool: str
    kind: str = ""
    description: str = ""
    idempotent: bool = False


class ToolResult(Record):
    """What a tool answered."""

    output: Any = None
    stdout: str = ""
    stderr: str = ""
    error: dict[str, Any] | None = None
    duration_ms: int = 0
    sandbox: str | None = None


class Page(Record):
    """A page of a listing, whatever it lists."""

    next_page_token: str | None = None
