"""What model calls used and cost."""

from datetime import datetime
from typing import Literal

from pydantic import Field
from slipway.router.v1 import router_pb2 as pb

from slipway_gateway.http.resources.fields import Page, Resource, dollars, labels_of, time_of

GroupBy = Literal[
    "model", "subject", "run", "root_run", "agent", "user", "key", "task", "provider", "outcome", "day", "month"
]


class TokenUsage(Resource):
    """Tokens in disjoint classes, and their cost."""

    input_tokens: int = Field(description="In no other class.")
    cached_input_tokens: int = Field(description="Read from the provider's cache.")
    cache_write_tokens: int = Field(description="Written to the provider's cache.")
    image_tokens: int = Field(description="Of images, where the provider counts them apart.")
    output_tokens: int = Field(description="Without reasoning.")
    reasoning_tokens: int
    cost_usd: float
    estimated: bool = Field(
        description="True when the provider reported no usage, or the worst case is billed because a router died."
    )
    cached: bool = Field(description="True when the answer came from the tenant's cache: nothing was bought.")


class UsageRow(Resource):
    """One model call."""

    request_id: str
    end_time: datetime | None
    subject: str
    run_id: str | None
    root_run_id: str | None = Field(description="The run whose budget paid.")
    agent_version: str | None
    requested_model: str
    catalogue_model: str
    returned_model: str
    provider: str
    usage: TokenUsage
    attempts: int
    outcome: str = Field(description="`ok`, or the reason code of the failure.")
    latency_ms: int
    labels: dict[str, str]
    task: str


class UsageGroup(Resource):
    """One sum."""

    key: str
    calls: int
    usage: TokenUsage


class UsageSummary(Resource):
    """Sums, dearest first."""

    group_by: GroupBy
    groups: list[UsageGroup]


class UsagePage(Page):
    """A page of model calls, newest first."""

    rows: list[UsageRow]


def token_usage(message: pb.Usage) -> TokenUsage:
    """Converts a usage."""
    return TokenUsage(
        input_tokens=message.input_tokens,
        cached_input_tokens=message.cached_input_tokens,
        cache_write_tokens=message.cache_write_tokens,
        image_tokens=message.image_tokens,
        output_tokens=message.output_tokens,
        reasoning_tokens=message.reasoning_tokens,
        cost_usd=dollars(message.cost),
        estimated=message.estimated,
        cached=message.cached,
    )


def usage_row(message: pb.UsageRow) -> UsageRow:
    """Converts a row."""
    return UsageRow(
        request_id=message.request_id,
        end_time=time_of(message, "end_time"),
        subject=message.subject,
        run_id=message.run_id or None,
        root_run_id=message.root_run_id or None,
        agent_version=message.agent_version or None,
        requested_model=message.requested_model,
        catalogue_model=message.catalogue_model,
        returned_model=message.returned_model,
        provider=message.provider,
        usage=token_usage(message.usage),
        attempts=message.attempts,
        outcome=message.outcome,
        latency_ms=message.latency_ms,
        labels=labels_of(message.labels),
        task=message.task,
    )
