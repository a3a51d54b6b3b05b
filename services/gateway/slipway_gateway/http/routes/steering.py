"""Steering runs that exist: cancel many, pause, resume, signal, raise limits, fork, replay."""

from fastapi import Response
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.money import to_money

from slipway_gateway.http.api import api_router
from slipway_gateway.http.resources.fields import duration, json_text
from slipway_gateway.http.resources.runs import (
    CancelledRuns,
    CancelRuns,
    ForkRun,
    PauseRun,
    Replay,
    Run,
    RunLimits,
    SignalRun,
    replay,
    run,
)
from slipway_gateway.http.route import CallsDep, GatewayDep, IdempotencyKey
from slipway_gateway.http.routes.runs import RunId

router = api_router("runs")

# A bulk cancel and a replay of a long journal take their time.
LONG_SECONDS = 60.0


@router.post("/runs/cancel", status_code=202, summary="Cancel runs by filter")
async def cancel_runs(body: CancelRuns, calls: CallsDep, request_id: IdempotencyKey) -> CancelledRuns:
    """Asks all unfinished runs to stop that match and that the caller may cancel, at most `limit` of them."""
    answer: pb.CancelRunsResponse = await calls.invoke(
        calls.peers.runs.CancelRuns,
        pb.CancelRunsRequest(
            agent=body.agent,
            states=[pb.RunState.Value(f"RUN_STATE_{name}") for name in body.states],
            labels=body.labels,
            reason=body.reason,
            force=body.force,
            limit=body.limit,
            request_id=request_id,
        ),
        timeout=LONG_SECONDS,
    )
    return CancelledRuns(count=answer.count, more=answer.more)


@router.post("/runs/{run_id}/pause", status_code=202, summary="Pause a run")
async def pause_run(run_id: RunId, calls: CallsDep, request_id: IdempotencyKey, body: PauseRun | None = None) -> Run:
    """Keeps the run from going on after what it is doing, until it is resumed; a finished or paused run is 409."""
    answer: pb.PauseRunResponse = await calls.invoke(
        calls.peers.runs.PauseRun,
        pb.PauseRunRequest(run_id=run_id, reason=body.reason if body else "", request_id=request_id),
    )
    return run(answer.run)


@router.post("/runs/{run_id}/resume", status_code=202, summary="Resume a run")
async def resume_run(run_id: RunId, calls: CallsDep, request_id: IdempotencyKey, body: PauseRun | None = None) -> Run:
    """Lets a paused run go on; one that is not paused, or whose agent is suspended, is 409."""
    answer: pb.ResumeRunResponse = await calls.invoke(
        calls.peers.runs.ResumeRun,
        pb.ResumeRunRequest(run_id=run_id, reason=body.reason if body else "", request_id=request_id),
    )
    return run(answer.run)


@router.post("/runs/{run_id}/signal", status_code=202, summary="Signal a run")
async def signal_run(run_id: RunId, body: SignalRun, calls: CallsDep, request_id: IdempotencyKey) -> Run:
    """Hands the run a value that a `wait` step takes by its name; one that comes early is kept. Finished: 409."""
    answer: pb.SignalRunResponse = await calls.invoke(
        calls.peers.runs.SignalRun,
        pb.SignalRunRequest(run_id=run_id, name=body.name, payload_json=json_text(body.payload), request_id=request_id),
    )
    return run(answer.run)


@router.post("/runs/{run_id}/limits", status_code=202, summary="Raise a run's limits")
async def raise_run_limits(run_id: RunId, body: RunLimits, calls: CallsDep, request_id: IdempotencyKey) -> Run:
    """Raises limits of this run alone; if it paused at a limit, it goes on. A limit that is not raised is 422."""
    limits = pb.RunLimits(steps=body.steps, tokens=body.tokens, tool_errors=body.tool_errors, repeats=body.repeats)
    if body.cost_usd is not None:
        limits.cost.CopyFrom(to_money(body.cost_usd))
    if body.wall_time is not None:
        limits.wall_time.CopyFrom(duration(body.wall_time))
    answer: pb.RaiseRunLimitsResponse = await calls.invoke(
        calls.peers.runs.RaiseRunLimits,
        pb.RaiseRunLimitsRequest(run_id=run_id, limits=limits, request_id=request_id),
    )
    return run(answer.run)


@router.post("/runs/{run_id}/fork", status_code=202, summary="Fork a run")
async def fork_run(
    run_id: RunId, body: ForkRun, calls: CallsDep, gateway: GatewayDep, request_id: IdempotencyKey, response: Response
) -> Run:
    """Starts a run whose journal begins with this one's events up to `seq`: nothing of that is done again.

    The fork acts in the caller's name. An event that does not exist, or that ended the run, is 422.
    """
    source: pb.GetRunResponse = await calls.invoke(calls.peers.runs.GetRun, pb.GetRunRequest(run_id=run_id))
    answer: pb.ForkRunResponse = await calls.invoke(
        calls.peers.runs.ForkRun,
        pb.ForkRunRequest(
            run_id=run_id,
            seq=body.seq,
            version=body.version or 0,
            input_json=json_text(body.input) if "input" in body.model_fields_set else "",
            labels=body.labels,
            run_grant=gateway.grants.sign(calls.principal, source.run.agent),
            request_id=request_id,
        ),
        timeout=LONG_SECONDS,
    )
    fork = run(answer.run)
    response.headers["location"] = f"/v1/runs/{fork.run_id}"
    return fork


@router.post("/runs/{run_id}/replay", summary="Replay a run")
async def replay_run(run_id: RunId, calls: CallsDep) -> Replay:
    """Decides a finished run once more from its journal, without any effect; a run that has not ended is 409."""
    answer: pb.ReplayRunResponse = await calls.invoke(
        calls.peers.runs.ReplayRun, pb.ReplayRunRequest(run_id=run_id), timeout=LONG_SECONDS
    )
    return replay(answer)
