"""What model calls used and cost."""

from datetime import datetime
from typing import Literal

from pydantic import Field
from slipway.router.v1 import router_pb2 as pb

from slipway_gateway.http.resources.fields import Page, Resource, dollars, labels_of, time_of

GroupBy = Literal["model", "subject", "run", "task", "provider", "day"]


class TokenUsage(Resource):
    """Tokens in disjoint classes, and their cost."""

    input_tokens: int = Field(description="Not read from a cache.")
    cached_input_tokens: int
    output_tokens: int = Field(description="Without reasoning.")
    reasoning_tokens: int
    cost_usd: float
    estimated: bool = Field(description="True when the provider reported no usage.")


class UsageRow(Resource):
    """One model call."""

    request_id: str
    end_time: datetime | None
    subject: str
    run_id: str | None
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
        output_tokens=message.output_tokens,
        reasoning_tokens=message.reasoning_tokens,
        cost_usd=dollars(message.cost),
        estimated=message.estimated,
    )


def usage_row(message: pb.UsageRow) -> UsageRow:
    """Converts a row."""
    return UsageRow(
        request_id=message.request_id,
        end_time=time_of(message, "end_time"),
        subject=message.subject,
        run_id=message.run_id or None,
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
