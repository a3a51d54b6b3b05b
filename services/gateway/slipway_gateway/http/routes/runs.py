"""Starting and following runs."""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Header, Path, Query, Response
from slipway.memory.v1 import memory_pb2
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import ErrorKind, InvalidArgument, SlipwayError

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.calls import Calls
from slipway_gateway.http.resources.fields import json_text
from slipway_gateway.http.resources.runs import TERMINAL_STATES, CancelRun, Run, RunPage, StartRun, run
from slipway_gateway.http.route import CallsDep, GatewayDep, IdempotencyKey
from slipway_gateway.http.routes.agents import AgentName

router = api_router("runs")

RunId = Annotated[str, Path(min_length=1, max_length=64)]
StateName = Literal[
    "QUEUED", "RUNNING", "WAITING_APPROVAL", "WAITING_TIMER", "WAITING_SIGNAL", "WAITING_RUN", "PAUSED", "SUCCEEDED",
    "FAILED", "CANCELLED",
]  # fmt: skip

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?=$|[,;\s])")


class PreferInvalid(InvalidArgument):
    """The Prefer header asks for a wait that is no number of seconds."""

    reason = "RUN_PREFER_INVALID"


@router.post(
    "/agents/{agent}/runs",
    status_code=202,
    responses={200: {"model": Run, "description": "`Prefer: wait=…` was given and the run ended in time."}},
    summary="Start a run",
)
async def start_run(
    agent: AgentName,
    body: StartRun,
    calls: CallsDep,
    gateway: GatewayDep,
    request_id: IdempotencyKey,
    response: Response,
    prefer: Annotated[str, Header(max_length=200, description="`wait=30`: wait up to 30 seconds for the end.")] = "",
) -> Run:
    """Answers as soon as the run is committed; the run then goes on whatever happens to this connection."""
    wait = _wait_of(prefer, gateway.limits.max_wait)
    message = pb.StartRunRequest(
        agent=agent,
        version=body.version or 0,
        input_json=json_text(body.input),
        session_id=body.session_id or "",
        labels=body.labels,
        request_id=request_id,
        priority=body.priority,
        input_tainted=body.input_tainted,
    )
    if body.not_before is not None:
        message.not_before.FromDatetime(_in_utc(body.not_before))
    start = body.not_before.timestamp() if body.not_before is not None else None
    message.run_grant = gateway.grants.sign(calls.principal, agent, not_before=start)
    if body.session_id:
        # A session that does not exist, or is somebody else's, is told before anything starts.
        await calls.invoke(calls.peers.sessions.GetSession, memory_pb2.GetSessionRequest(session_id=body.session_id))
    answer: pb.StartRunResponse = await calls.invoke(calls.peers.runs.StartRun, message)
    started = run(answer.run)
    response.headers["location"] = f"/v1/runs/{started.run_id}"
    if wait and started.state not in TERMINAL_STATES:
        response.headers["preference-applied"] = f"wait={wait:g}"
        await _until_end(calls, started.run_id, wait)
        started = await _get(calls, started.run_id)
    if wait and started.state in TERMINAL_STATES:
        response.status_code = 200
    return started


def _wait_of(prefer: str, maximum: float) -> float:
    """The wait that RFC 7240 lets a client ask for, cut to the maximum."""
    match = _WAIT.search(prefer)
    if match is None and "wait" in prefer:
        raise PreferInvalid("`Prefer: wait=…` takes whole seconds", field="Prefer")
    return min(float(match[1]), maximum) if match else 0.0


def _in_utc(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise InvalidArgument("the time needs a time zone, e.g. 2026-01-31T12:00:00Z", field="not_before")
    if not 1970 <= time.year <= 9000:
        raise InvalidArgument("the time is out of range", field="not_before")
    return time.astimezone(UTC).replace(tzinfo=None)


async def _until_end(calls: Calls, run_id: str, seconds: float) -> None:
    """Watches the run to its end, or until the time is over; the service ends the stream after the terminal event."""
    try:
        async for _ in calls.stream(calls.peers.runs.WatchRun, pb.WatchRunRequest(run_id=run_id), timeout=seconds):
            pass
    except SlipwayError as error:
        if error.kind is not ErrorKind.DEADLINE_EXCEEDED:
            raise


async def _get(calls: Calls, run_id: str) -> Run:
    answer: pb.GetRunResponse = await calls.invoke(calls.peers.runs.GetRun, pb.GetRunRequest(run_id=run_id))
    return run(answer.run)


@router.get("/runs", summary="List runs")
async def list_runs(
    calls: CallsDep,
    agent: Annotated[str, Query(max_length=200)] = "",
    state: Annotated[list[StateName] | None, Query(description="May be repeated.")] = None,
    label: Annotated[list[str] | None, Query(description="`name:value`; may be repeated: all must hold.")] = None,
    parent: Annotated[str, Query(max_length=64, description="Only child runs of this run.")] = "",
    page_size: PageSizeQuery = 0,
    page_token: PageTokenQuery = "",
) -> RunPage:
    """The tenant's runs that the caller may read, newest first."""
    answer: pb.ListRunsResponse = await calls.invoke(
        calls.peers.runs.ListRuns,
        pb.ListRunsRequest(
            agent=agent,
            states=[pb.RunState.Value(f"RUN_STATE_{name}") for name in state or ()],
            labels=_labels(label or []),
            parent_run_id=parent,
            page_size=page_size,
            page_token=page_token,
        ),
    )
    return RunPage(runs=[run(item) for item in answer.runs], next_page_token=answer.next_page_token or None)


def _labels(pairs: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition(":")
        if not separator or not name:
            raise InvalidArgument("a label is given as `name:value`", field="label")
        labels[name] = value
    return labels


@router.get("/runs/{run_id}", summary="Get a run")
async def get_run(run_id: RunId, calls: CallsDep) -> Run:
    """One run, with input and output."""
    return await _get(calls, run_id)


@router.post("/runs/{run_id}/cancel", status_code=202, summary="Cancel a run")
async def cancel_run(run_id: RunId, calls: CallsDep, request_id: IdempotencyKey, body: CancelRun | None = None) -> Run:
    """Asks the run, what it is doing and its child runs to stop; a finished run is 409."""
    answer: pb.CancelRunResponse = await calls.invoke(
        calls.peers.runs.CancelRun,
        pb.CancelRunRequest(
            run_id=run_id,
            reason=body.reason if body else "",
            force=body.force if body else False,
            request_id=request_id,
        ),
    )
    return run(answer.run)
