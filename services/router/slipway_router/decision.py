"""The decision on a request in a form for people and for records: each candidate, why it was left out, its score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipway_router.catalogue import Model
from slipway_router.eligibility import Hurdle
from slipway_router.health import Admission, Gate
from slipway_router.measurements import UNMEASURED, Measured
from slipway_router.ranking import expected_cost, expected_wait
from slipway_router.routing import Plan

HURDLES: Mapping[Hurdle, str] = {hurdle: hurdle.name.lower() for hurdle in Hurdle}
STATED, CLASSIFIED = "stated", "classified"


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One model that was looked at. Figures are there only in an explanation: dollars, seconds, a share."""

    model: str
    eligible: bool
    reason: str
    hurdle: str = ""
    score: float = 0.0
    quality: str = ""
    expected_cost: float | None = None
    wait: float | None = None
    error_rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Which candidates a request may go to, in order, and those left out."""

    route: str
    policy: str
    task: str
    task_source: str
    similarity: float
    classifier_note: str
    catalogue_digest: str
    session_model: str
    candidates: tuple[CandidateView, ...]


def task_source(plan: Plan) -> str:
    """Where the task comes from: `stated`, `classified`, or empty without one."""
    if plan.proposal is not None:
        return CLASSIFIED if plan.proposal.task else ""
    return STATED if plan.demand.task and not plan.demand.model else ""


def explained(plan: Plan, admissions: Mapping[str, Admission], measured: Measured) -> Decision:
    """The decision with what is known of the candidates; those that cool down are skipped when the request is sent."""
    eligible: list[CandidateView] = []
    skipped: list[CandidateView] = []
    for place, candidate in enumerate(plan.candidates):
        model = candidate.model
        admission = admissions[model.name]
        if admission.gate is Gate.CLOSED:
            reason = f"cooling down for {admission.retry_after:.0f} s after failures"
            skipped.append(_view(plan, model, measured, eligible=False, reason=reason, hurdle="health"))
            continue
        reasons = ["healthy" if admission.gate is Gate.OPEN else "half open: one call will probe it"]
        if model.name == plan.session_model:
            reasons.append("the session stays with it")
        if place == 0 and plan.note:
            reasons.append(plan.note)
        eligible.append(_view(plan, model, measured, eligible=True, reason="; ".join(reasons)))
    left = [
        _view(plan, out.model, measured, eligible=False, reason=out.reason, hurdle=HURDLES[out.hurdle])
        for out in plan.left_out
    ]
    return _decision(plan, (*eligible, *skipped, *left))


def recorded(plan: Plan) -> dict[str, Any]:
    """The decision for the record of a call, compact."""
    proposal = plan.proposal
    fields: dict[str, Any] = {
        "catalogue": plan.catalogue_digest,
        "candidates": [
            [candidate.model.name, plan.scores.get(candidate.model.name, 0.0)] for candidate in plan.candidates
        ],
    }
    optional = {
        "policy": plan.route.policy if plan.route else "",
        "task": plan.demand.task,
        "task_source": task_source(plan),
        "similarity": proposal.similarity if proposal else 0.0,
        "classifier_note": proposal.note if proposal else "",
        "session_model": plan.session_model,
        "note": plan.note,
        "left_out": [[out.model.name, HURDLES[out.hurdle], out.reason] for out in plan.left_out],
    }
    return fields | {name: value for name, value in optional.items() if value}


def restored(route: str, fields: Mapping[str, Any]) -> Decision:
    """The decision that `recorded` wrote, of a call that took `route`."""
    note = fields.get("note", "")
    candidates = [
        CandidateView(name, True, note if place == 0 else "", score=score)
        for place, (name, score) in enumerate(fields["candidates"])
    ]
    left = [CandidateView(name, False, reason, hurdle) for name, hurdle, reason in fields.get("left_out", ())]
    return Decision(
        route=route,
        policy=fields.get("policy", ""),
        task=fields.get("task", ""),
        task_source=fields.get("task_source", ""),
        similarity=fields.get("similarity", 0.0),
        classifier_note=fields.get("classifier_note", ""),
        catalogue_digest=fields["catalogue"],
        session_model=fields.get("session_model", ""),
        candidates=(*candidates, *left),
    )


def _decision(plan: Plan, candidates: tuple[CandidateView, ...]) -> Decision:
    proposal = plan.proposal
    return Decision(
        route=plan.route.name if plan.route else "",
        policy=plan.route.policy if plan.route else "",
        task=plan.demand.task if not plan.demand.model else "",
        task_source=task_source(plan),
        similarity=proposal.similarity if proposal else 0.0,
        classifier_note=proposal.note if proposal else "",
        catalogue_digest=plan.catalogue_digest,
        session_model=plan.session_model,
        candidates=candidates,
    )


def _view(
    plan: Plan, model: Model, measured: Measured, *, eligible: bool, reason: str, hurdle: str = ""
) -> CandidateView:
    return CandidateView(
        model=model.name,
        eligible=eligible,
        reason=reason,
        hurdle=hurdle,
        score=plan.scores.get(model.name, 0.0),
        quality=model.quality.name.lower(),
        expected_cost=expected_cost(model, plan.demand),
        wait=expected_wait(model, plan.demand, measured),
        error_rate=measured.get(model.name, UNMEASURED).error_rate,
    )
