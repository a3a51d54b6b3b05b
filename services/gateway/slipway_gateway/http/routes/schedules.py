"""Schedules: runs that start by the clock."""

from typing import Annotated

from fastapi import Path, Response
from slipway.runs.v1 import schedules_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.resources.schedules import PutSchedule, Schedule, SchedulePage, put_request, schedule
from slipway_gateway.http.route import CallsDep, GatewayDep, IdempotencyKey
from slipway_gateway.http.routes.agents import AgentName

router = api_router("schedules")

ScheduleName = Annotated[str, Path(min_length=1, max_length=63)]


@router.put(
    "/agents/{agent}/schedules/{schedule_name}",
    status_code=201,
    responses={200: {"model": Schedule, "description": "The schedule was there: it is replaced."}},
    summary="Create or replace a schedule",
)
async def put_schedule(
    agent: AgentName,
    schedule_name: ScheduleName,
    body: PutSchedule,
    calls: CallsDep,
    gateway: GatewayDep,
    request_id: IdempotencyKey,
    response: Response,
) -> Schedule:
    """Its runs act in the caller's name; when the caller is disabled, it stops. A schedule that was stopped goes on."""
    grant = gateway.grants.sign_schedule(calls.principal, agent)
    answer: pb.PutScheduleResponse = await calls.invoke(
        calls.peers.schedules.PutSchedule, put_request(agent, schedule_name, body, grant, request_id)
    )
    response.status_code = 201 if answer.created else 200
    return schedule(answer.schedule)


@router.get("/agents/{agent}/schedules", summary="List an agent's schedules")
async def list_schedules(
    agent: AgentName, calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = ""
) -> SchedulePage:
    """By name."""
    answer: pb.ListSchedulesResponse = await calls.invoke(
        calls.peers.schedules.ListSchedules,
        pb.ListSchedulesRequest(agent=agent, page_size=page_size, page_token=page_token),
    )
    return SchedulePage(
        schedules=[schedule(item) for item in answer.schedules], next_page_token=answer.next_page_token or None
    )


@router.get("/agents/{agent}/schedules/{schedule_name}", summary="Get a schedule")
async def get_schedule(agent: AgentName, schedule_name: ScheduleName, calls: CallsDep) -> Schedule:
    """One schedule, with what came of its last due time."""
    answer: pb.GetScheduleResponse = await calls.invoke(
        calls.peers.schedules.GetSchedule, pb.GetScheduleRequest(agent=agent, schedule=schedule_name)
    )
    return schedule(answer.schedule)


@router.delete("/agents/{agent}/schedules/{schedule_name}", status_code=204, summary="Delete a schedule")
async def delete_schedule(agent: AgentName, schedule_name: ScheduleName, calls: CallsDep) -> None:
    """Runs that it started go on."""
    await calls.invoke(
        calls.peers.schedules.DeleteSchedule, pb.DeleteScheduleRequest(agent=agent, schedule=schedule_name)
    )
