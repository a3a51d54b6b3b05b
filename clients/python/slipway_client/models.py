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
    review_message: str = ""
    definition_yaml: str | None = None
    create_time: datetime | None = None
    in_production: bool = False


class Suspension(Record):
    """A kill switch that is pulled: of an agent, the tenant or everything."""

    scope: str
    reason: str = ""
    suspended_by: str = ""
    create_time: datetime | None = None


class Agent(Record):
    """A name with versions."""

    agent: str
    description: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    production_version: int | None = None
    latest_version: int = 0
    suspension: Suspension | None = None


class Schedule(Record):
    """Starts runs of an agent by the clock."""

    agent: str
    schedule: str
    cron: str
    time_zone: str = "UTC"
    input: Any = None
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    priority: int = 0
    overlap: str = ""
    catch_up: str = ""
    paused: bool = False
    stop_reason: str | None = None
    owner: str = ""
    next_time: datetime | None = None
    last_time: datetime | None = None
    last_run_id: str | None = None
    last_outcome: str | None = None
    last_message: str | None = None


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


class ForkPoint(Record):
    """Run, and the last of its events, that a fork took over."""

    run_id: str
    seq: int


class Pause(Record):
    """Why a run does not go on."""

    code: str
    reason: str = ""
    time: datetime | None = None


class CancelledRuns(Record):
    """How many runs were asked to stop, and whether some are left that match."""

    count: int
    more: bool = False


class Replay(Record):
    """Whether a finished run decides the same once more, and the first event that differs."""

    same: bool
    events: int = 0
    difference: dict[str, Any] | None = None


class Run(Record):
    """One execution of an agent version."""

    run_id: str
    agent: str = ""
    version: int = 0
    digest: str = ""
    state: str
    input: Any = None
    output: Any = None
    error: RunError | None = None
    usage: RunUsage = Field(default_factory=RunUsage)
    caller: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    session_id: str | None = None
    create_time: datetime | None = None
    update_time: datetime | None = None
    end_time: datetime | None = None
    last_seq: int = 0
    trace_id: str = ""
    pending_approval_ids: list[str] = Field(default_factory=list[str])
    parent_run_id: str | None = None
    parent_step: str | None = None
    root_run_id: str = ""
    depth: int = 0
    child_run_ids: list[str] = Field(default_factory=list[str])
    forked_from: ForkPoint | None = None
    schedule: str | None = None
    priority: int = 0
    not_before: datetime | None = None
    pause: Pause | None = None

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


class ApprovalVote(Record):
    """One of several approvals."""

    decider: str
    time: datetime | None = None
    message: str | None = None


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
    approvers: list[str] = Field(default_factory=list[str])
    proposer: str = ""
    decider: str | None = None
    message: str | None = None
    decided_arguments: Any = None
    create_time: datetime | None = None
    decide_time: datetime | None = None
    expire_time: datetime | None = None
    quorum: int = 1
    votes: list[ApprovalVote] = Field(default_factory=list[ApprovalVote])
    reminders: int = 0
    next_reminder_time: datetime | None = None
    reason: str | None = None
    escalation: bool = False


class Collection(Record):
    """A set of documents."""

    collection: str
    description: str = ""
    embedding_model: str = ""
    regions: list[str] = Field(default_factory=list[str])
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
    page_count: int | None = None
    content_type: str = ""
    size_bytes: int = 0
    digest: str = ""
    readers: list[str] = Field(default_factory=list[str])
    metadata: dict[str, str] = Field(default_factory=dict[str, str])


class Passage(Record):
    """A chunk that was found, and where it stands in its document."""

    passage_id: str
    document: str
    title: str = ""
    headings: list[str] = Field(default_factory=list[str])
    page: int | None = None
    text: str
    score: float = 0.0


class File(Record):
    """Bytes with an owner."""

    file_id: str
    filename: str
    content_type: str = ""
    size_bytes: int = 0
    digest: str = ""
    owner: str = ""
    readers: list[str] = Field(default_factory=list[str])
    expire_time: datetime | None = None


class Tool(Record):
    """Something an agent can call."""

    tool: str
    kind: str = ""
    description: str = ""
    input_schema: Any = None
    output_schema: Any = None
    idempotent: bool = False
    version: int = 0
    side_effect: str = ""
    untrusted_output: bool = False
    egress: bool = False
    quarantine: str | None = None
    digest: str = ""


class ToolPolicy(Record):
    """A tool, and what policy says of a call."""

    tool: Tool
    allowed: bool
    approval_required: bool = False
    policies: list[str] = Field(default_factory=list[str])


class McpServer(Record):
    """A connected MCP server."""

    server: str
    http: dict[str, Any] | None = None
    stdio: dict[str, Any] | None = None
    side_effect: str = ""
    digest: str = ""
    proposer: str = ""
    authorization: "McpAuthorization | None" = None


class McpAuthorization(Record):
    """Where a login at an MCP server stands: `NONE`, `VALID`, `LOGIN_REQUIRED`."""

    state: str
    expire_time: datetime | None = None
    refreshable: bool = False
    per_user: bool = False
    authorizer: str | None = None
    issuer: str | None = None
    scopes: list[str] = []
    missing_scopes: list[str] = []


class McpLogin(Record):
    """A login that has begun: open `authorization_url` in a browser, then complete it."""

    authorization_url: str
    redirect_uri: str
    state: str
    issuer: str = ""
    scopes: list[str] = []
    per_user: bool = False


class McpServerTool(Record):
    """A tool as its server offers it now, beside what was approved."""

    name: str
    tool: str | None = None
    state: str
    digest: str | None = None
    approved_digest: str | None = None
    definition: Any = None
    diff: str = ""
    fault: str | None = None
    approver: str | None = None


class McpServerTools(Record):
    """What a server offers; `fault` says why it did not answer."""

    tools: list[McpServerTool]
    protocol_version: str | None = None
    fault: str | None = None


class ToolResult(Record):
    """What a tool answered."""

    output: Any = None
    stdout: str = ""
    stderr: str = ""
    error: dict[str, Any] | None = None
    duration_ms: int = 0
    exit_status: int = 0
    sandbox: str | None = None
    output_tainted: bool = False
    version: int = 0


class WhoAmI(Record):
    """The caller as the gateway sees it."""

    subject: str
    tenant: str
    name: str = ""
    roles: list[str] = Field(default_factory=list[str])
    groups: list[str] = Field(default_factory=list[str])
    method: str = ""
    expire_time: datetime | None = None


class ApiKey(Record):
    """A key of a service principal; `key` is the secret, which only the answer to its creation holds."""

    key_id: str
    name: str = ""
    subject: str = ""
    roles: list[str] = Field(default_factory=list[str])
    owner: str = ""
    create_time: datetime | None = None
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    key: str | None = Field(default=None, repr=False)


class Session(Record):
    """A conversation."""

    session_id: str
    owner: str = ""
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    message_count: int = 0
    expire_time: datetime | None = None


class SessionMessage(Record):
    """One turn of a conversation."""

    seq: int
    role: str
    content: str
    time: datetime | None = None


class TokenUsage(Record):
    """Tokens in disjoint classes, and their cost in US dollars."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    image_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    estimated: bool = False
    cached: bool = False


class BudgetBalance(Record):
    """What happened in a budget's current period, in US dollars."""

    scope_value: str
    spent_usd: Decimal = Decimal(0)
    reserved_usd: Decimal = Decimal(0)
    period_start_time: datetime | None = None
    period_end_time: datetime | None = None
    soft_limit_reached: bool = False


class Budget(Record):
    """What calls may cost, whose, and in which time."""

    budget: str
    scope: str
    scope_value: str = ""
    period: str
    limit_usd: Decimal | None = None
    soft_limit_usd: Decimal | None = None
    create_time: datetime | None = None
    update_time: datetime | None = None
    balances: list[BudgetBalance] = Field(default_factory=list[BudgetBalance])


class UsageGroup(Record):
    """A sum of model calls."""

    key: str
    calls: int = 0
    usage: TokenUsage = Field(default_factory=TokenUsage)


class ModelCall(Record):
    """What one model call used."""

    request_id: str
    catalogue_model: str = ""
    provider: str = ""
    outcome: str = ""
    usage: TokenUsage = Field(default_factory=TokenUsage)


class Checkpoint(Record):
    """A signed head of the audit log."""

    note: str
    tree_size: int
    verifier_key: str


class Source(Record):
    """A governed data source: a database and what may be read of it."""

    source: str
    version: int
    description: str = ""
    url: str = ""
    regions: list[str] = Field(default_factory=list[str])
    data_classes: list[str] = Field(default_factory=list[str])
    tables: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    owner: str = ""
    create_time: datetime | None = None
    update_time: datetime | None = None


class QueryResult(Record):
    """Rows of a query of a data source, each in the order of the columns."""

    columns: list[dict[str, str]]
    rows: list[list[Any]]
    row_count: int
    truncated: bool = False
    truncated_by: str | None = None
    masked_columns: list[str] = Field(default_factory=list[str])
    data_classes: list[str] = Field(default_factory=list[str])
    record: str = ""
