"""How models are chosen, and how routes compare."""

from datetime import datetime
from decimal import Decimal

from pydantic import Field
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.money import to_money

from slipway_gateway.http.openai.requests import ChatCompletionRequest, Message
from slipway_gateway.http.resources.fields import Command, Resource, dollars, milliseconds, time_of
from slipway_gateway.http.resources.usage import TokenUsage, token_usage


class ExplainRequest(ChatCompletionRequest):
    """A chat completion that is not sent; what it says may be left out."""

    messages: list[Message] = Field([], max_length=2048)


class Candidate(Resource):
    """One model that was looked at."""

    model: str
    eligible: bool = Field(description="True when it would be tried.")
    reason: str = Field(description="Why, or why not.")
    hurdle: str | None = Field(
        description="The demand that it fails: `policy`, `region`, `data_class`, `capability`, `quality`, `context`, "
        "`latency`, `cost` or `health`."
    )
    score: float | None = Field(description="Under the route's policy; the highest is tried first.")
    expected_cost_usd: float | None = Field(description="Absent in the record of a request that was sent.")
    latency_ms: float | None = Field(description="Measured or else declared; absent when nothing is known.")
    error_rate: float | None
    quality: str | None


class Decision(Resource):
    """Which candidates a request may go to, in order, those left out last."""

    route: str | None = Field(description="Absent when a model was named.")
    policy: str | None
    task: str | None
    task_source: str | None = Field(description="`stated`, `classified`, or absent without a task.")
    task_similarity: float | None = Field(description="Of the request to the nearest example of the task, by cosine.")
    classifier_note: str | None = Field(description="Why the classifier proposed nothing.")
    session_model: str | None = Field(description="The model that the session stays with.")
    catalogue_digest: str
    candidates: list[Candidate]


class Attempt(Resource):
    """One attempt at one model."""

    model: str
    outcome: str = Field(description="`ok`, or the reason code of the failure.")
    status: int | None = Field(description="HTTP status of the provider.")
    latency_ms: int
    hedge: bool = Field(description="True when it was started beside another one that was slow.")


class SentDecision(Resource):
    """The decision on a request that was sent, and what came of it."""

    request_id: str
    decision: Decision
    attempts: list[Attempt]
    outcome: str
    end_time: datetime | None


class CompareRequest(Command):
    """Which recorded requests are answered anew, and by whom."""

    against: str = Field(min_length=1, max_length=200, description="Model or route that answers them anew.")
    route: str = Field("", max_length=200, description="Only requests that took this route or named this model.")
    limit: int = Field(20, ge=1, le=500, description="Most requests, the newest first.")
    max_cost_usd: Decimal = Field(Decimal(1), gt=0, le=10_000, description="Ceiling for all replays together.")


class CallFigures(Resource):
    """What is compared of one call."""

    request_id: str
    catalogue_model: str
    outcome: str
    finish_reason: str | None
    usage: TokenUsage
    latency_ms: int


class ComparedCall(Resource):
    """One request with the figures of both answers."""

    recorded: CallFigures
    replayed: CallFigures
    text_similarity: float = Field(description="Overlap of the words of both texts, F1, 0 to 1.")
    same_tool_calls: bool


class SideTotals(Resource):
    """One side added up."""

    answered: int
    failed: int
    usage: TokenUsage
    median_latency_ms: int
    p95_latency_ms: int


class Comparison(Resource):
    """Recorded requests, answered anew."""

    calls: list[ComparedCall]
    recorded: SideTotals
    replayed: SideTotals
    mean_text_similarity: float
    same_tool_calls: float = Field(description="Share of the calls that both sides answered.")
    note: str | None = Field(description="Why fewer requests than asked for were replayed.")


def decision(message: pb.ExplainRouteResponse) -> Decision:
    """Converts a decision."""
    classified = message.task_source == "classified" or bool(message.classifier_note)
    return Decision(
        route=message.route or None,
        policy=message.policy or None,
        task=message.task or None,
        task_source=message.task_source or None,
        task_similarity=message.task_similarity if classified else None,
        classifier_note=message.classifier_note or None,
        session_model=message.session_model or None,
        catalogue_digest=message.catalogue_digest,
        candidates=[_candidate(item) for item in message.candidates],
    )


def sent_decision(request_id: str, message: pb.GetRouteDecisionResponse) -> SentDecision:
    """Converts the decision on a request that was sent."""
    return SentDecision(
        request_id=request_id,
        decision=decision(message.decision),
        attempts=[
            Attempt(
                model=item.model,
                outcome=item.outcome,
                status=item.status or None,
                latency_ms=item.latency_ms,
                hedge=item.hedge,
            )
            for item in message.attempts
        ],
        outcome=message.outcome,
        end_time=time_of(message, "end_time"),
    )


def compare_request(body: CompareRequest) -> pb.CompareRoutesRequest:
    """The router's request."""
    return pb.CompareRoutesRequest(
        against=body.against, route=body.route, limit=body.limit, max_cost=to_money(body.max_cost_usd)
    )


def compared_call(message: pb.ComparedCall) -> ComparedCall:
    """Converts one compared call."""
    return ComparedCall(
        recorded=_figures(message.recorded),
        replayed=_figures(message.replayed),
        text_similarity=message.text_similarity,
        same_tool_calls=message.same_tool_calls,
    )


def comparison(calls: list[ComparedCall], message: pb.ComparisonSummary) -> Comparison:
    """Converts a whole comparison."""
    return Comparison(
        calls=calls,
        recorded=_totals(message.recorded),
        replayed=_totals(message.replayed),
        mean_text_similarity=message.mean_text_similarity,
        same_tool_calls=message.same_tool_calls,
        note=message.note or None,
    )


def _candidate(message: pb.RouteCandidate) -> Candidate:
    known = bool(message.quality)
    passed = message.eligible or message.hurdle == "health"
    return Candidate(
        model=message.model,
        eligible=message.eligible,
        reason=message.reason,
        hurdle=message.hurdle or None,
        score=message.score if passed else None,
        expected_cost_usd=dollars(message.expected_cost) if message.HasField("expected_cost") else None,
        latency_ms=milliseconds(message.latency) if message.HasField("latency") else None,
        error_rate=message.error_rate if known else None,
        quality=message.quality or None,
    )


def _figures(message: pb.CallFigures) -> CallFigures:
    return CallFigures(
        request_id=message.request_id,
        catalogue_model=message.catalogue_model,
        outcome=message.outcome,
        finish_reason=message.finish_reason or None,
        usage=token_usage(message.usage),
        latency_ms=message.latency_ms,
    )


def _totals(message: pb.SideTotals) -> SideTotals:
    return SideTotals(
        answered=message.answered,
        failed=message.failed,
        usage=token_usage(message.usage),
        median_latency_ms=message.median_latency_ms,
        p95_latency_ms=message.p95_latency_ms,
    )
