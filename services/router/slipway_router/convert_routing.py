"""The crossing between slipway.router.v1 and the router's terms for models, routes and decisions."""

from collections.abc import Mapping
from decimal import Decimal

from google.protobuf.duration_pb2 import Duration
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.money import from_money, to_money

from slipway_router.catalogue import Model, Route
from slipway_router.comparison import ComparedCall, Figures, Summary, Totals
from slipway_router.convert import usage
from slipway_router.decision import CandidateView, Decision
from slipway_router.health import Admission, Gate
from slipway_router.measurements import Performance
from slipway_router.usage import SentDecision

_MOST_COMPARED = 500
_BEST_HEALTH = [gate.value for gate in (Gate.OPEN, Gate.PROBE, Gate.CLOSED)]


def model_entry(model: Model, admission: Admission, performance: Performance) -> pb.Model:
    """A model of the catalogue."""
    wait = performance.whole if performance.whole is not None else performance.first_token
    return pb.Model(
        name=model.name,
        provider=model.provider.name,
        kind=model.kind,
        regions=sorted(model.regions),
        context_window=model.context_window,
        max_output_tokens=model.max_output_tokens,
        input_price=to_money(model.price.input),
        output_price=to_money(model.price.output),
        health=admission.gate.value,
        quality=model.quality.name.lower(),
        capabilities=sorted(model.capabilities),
        data_classes=sorted(model.data_classes),
        latency=duration(wait),
        error_rate=performance.error_rate,
        measured_attempts=round(performance.attempts),
    )


def route_entry(route: Route, usable: Mapping[str, pb.Model]) -> pb.Model:
    """A route of the catalogue, as its candidates that the caller may use make it: `usable`, by name.

    It has no price, no window and no capabilities: those are its candidates'.
    """
    entries = [usable[model.name] for model in route.candidates if model.name in usable]
    return pb.Model(
        name=route.name,
        kind=route.kind,
        route=True,
        regions=sorted({region for entry in entries for region in entry.regions}),
        tasks=list(route.tasks),
        health=min((entry.health for entry in entries), key=_BEST_HEALTH.index),
        candidates=[entry.name for entry in entries],
        policy=route.policy,
    )


def decision(made: Decision) -> pb.ExplainRouteResponse:
    """A decision on the wire."""
    return pb.ExplainRouteResponse(
        route=made.route,
        candidates=[_candidate(view) for view in made.candidates],
        catalogue_digest=made.catalogue_digest,
        policy=made.policy,
        task=made.task,
        task_source=made.task_source,
        task_similarity=made.similarity,
        classifier_note=made.classifier_note,
        session_model=made.session_model,
    )


def sent_decision(sent: SentDecision) -> pb.GetRouteDecisionResponse:
    """A decision and what came of it on the wire."""
    response = pb.GetRouteDecisionResponse(
        decision=decision(sent.decision),
        attempts=[
            pb.RouteAttempt(
                model=note.model,
                outcome=note.outcome,
                status=note.status or 0,
                latency_ms=note.latency_ms,
                hedge=note.hedge,
            )
            for note in sent.attempts
        ],
        outcome=sent.outcome,
    )
    response.end_time.FromDatetime(sent.end_time)
    return response


def comparison_asked(request: pb.CompareRoutesRequest) -> tuple[str, str, int, Decimal]:
    """Against whom, on which route, how many at most, and for how much; raises InvalidArgument naming the field."""
    if not 0 <= request.limit <= _MOST_COMPARED:
        raise InvalidArgument(f"limit must be between 1 and {_MOST_COMPARED}", field="limit")
    max_cost = from_money(request.max_cost, field="max_cost") if request.HasField("max_cost") else Decimal(1)
    if max_cost <= 0:
        raise InvalidArgument("max_cost must be above 0", field="max_cost")
    return request.against, request.route, request.limit or 20, max_cost


def comparison_event(event: ComparedCall | Summary) -> pb.CompareRoutesResponse:
    """A part of a comparison on the wire."""
    if isinstance(event, ComparedCall):
        call = pb.ComparedCall(
            recorded=_figures(event.recorded),
            replayed=_figures(event.replayed),
            text_similarity=event.text_similarity,
            same_tool_calls=event.same_tool_calls,
        )
        return pb.CompareRoutesResponse(call=call)
    summary = pb.ComparisonSummary(
        recorded=_totals(event.recorded),
        replayed=_totals(event.replayed),
        mean_text_similarity=event.mean_text_similarity,
        same_tool_calls=event.same_tool_calls,
        note=event.note,
    )
    return pb.CompareRoutesResponse(summary=summary)


def _figures(figures: Figures) -> pb.CallFigures:
    return pb.CallFigures(
        request_id=figures.request_id,
        catalogue_model=figures.catalogue_model,
        outcome=figures.outcome,
        finish_reason=figures.finish_reason,
        usage=usage(figures.spent),
        latency_ms=figures.latency_ms,
    )


def _totals(totals: Totals) -> pb.SideTotals:
    return pb.SideTotals(
        answered=totals.answered,
        failed=totals.failed,
        usage=usage(totals.spent),
        median_latency_ms=totals.median_latency_ms,
        p95_latency_ms=totals.p95_latency_ms,
    )


def duration(seconds: float | None) -> Duration | None:
    """Seconds on the wire; None stays unset."""
    if seconds is None:
        return None
    value = Duration()
    value.FromMicroseconds(round(seconds * 1_000_000))
    return value


def _candidate(view: CandidateView) -> pb.RouteCandidate:
    candidate = pb.RouteCandidate(
        model=view.model,
        eligible=view.eligible,
        reason=view.reason,
        hurdle=view.hurdle,
        score=view.score,
        latency=duration(view.wait),
        error_rate=view.error_rate,
        quality=view.quality,
    )
    if view.expected_cost is not None:
        candidate.expected_cost.CopyFrom(to_money(Decimal(f"{view.expected_cost:.9f}")))
    return candidate
