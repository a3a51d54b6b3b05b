"""gRPC: slipway.runs.v1.SchedulesService."""

from datetime import timedelta
from typing import cast

from slipway.runs.v1 import schedules_pb2 as pb
from slipway.runs.v1 import schedules_pb2_grpc as rpc
from slipway_chassis.caller import current_caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.paging import decode_token, encode_token, page_size

from slipway_orchestrator.convert import to_json, to_timestamp
from slipway_orchestrator.launching import read_input
from slipway_orchestrator.schedules import Overlap, Schedule, Wanted
from slipway_orchestrator.scheduling import ScheduleDesk
from slipway_orchestrator.servicer_agents import request_key

_MANY, _DEFAULT = 200, 50
_CATCH_UP = timedelta(minutes=5)


class SchedulesServicer(rpc.SchedulesServiceServicer):
    """Converts and calls the desk."""

    def __init__(self, desk: ScheduleDesk) -> None:
        self._desk = desk

    async def PutSchedule(self, request: pb.PutScheduleRequest, context: object) -> pb.PutScheduleResponse:
        """Create or replace a schedule."""
        sent = request.schedule
        schedule, created = await self._desk.put(
            current_caller(),
            sent.agent,
            sent.schedule,
            _wanted(sent),
            request.schedule_grant,
            request_key("PutSchedule", request, request.request_id),
        )
        return pb.PutScheduleResponse(schedule=_message(schedule), created=created)

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: object) -> pb.GetScheduleResponse:
        """Answer with a schedule."""
        schedule = await self._desk.get(current_caller(), request.agent, request.schedule)
        return pb.GetScheduleResponse(schedule=_message(schedule))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: object) -> pb.ListSchedulesResponse:
        """Page through an agent's schedules by name."""
        caller, limit = current_caller(), page_size(request.page_size, _DEFAULT, _MANY)
        method = f"ListSchedules/{request.agent}"
        cursor = decode_token(caller.tenant, method, request.page_token, (str,))
        found = await self._desk.page(caller, request.agent, str(cursor[0]) if cursor else "", limit + 1)
        token = encode_token(caller.tenant, method, found[limit - 1].key.name) if len(found) > limit else ""
        return pb.ListSchedulesResponse(schedules=[_message(one) for one in found[:limit]], next_page_token=token)

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: object) -> pb.DeleteScheduleResponse:
        """End a schedule."""
        await self._desk.delete(current_caller(), request.agent, request.schedule)
        return pb.DeleteScheduleResponse()


def _wanted(sent: pb.Schedule) -> Wanted:
    if sent.overlap not in pb.OverlapPolicy.values():
        raise InvalidArgument("is no policy", field="overlap")
    overlap = pb.OverlapPolicy.Name(sent.overlap).removeprefix("OVERLAP_POLICY_")
    return Wanted(
        cron=sent.cron,
        time_zone=sent.time_zone or "UTC",
        input=read_input(sent.input_json),
        labels=dict(sent.labels),
        priority=sent.priority,
        overlap=cast(Overlap, "SKIP" if overlap == "UNSPECIFIED" else overlap),
        catch_up=sent.catch_up.ToTimedelta() if sent.HasField("catch_up") else _CATCH_UP,
        paused=sent.paused,
    )


def _message(schedule: Schedule) -> pb.Schedule:
    wanted = schedule.wanted
    message = pb.Schedule(
        agent=schedule.key.agent,
        schedule=schedule.key.name,
        cron=wanted.cron,
        time_zone=wanted.time_zone,
        input_json=to_json(wanted.input),
        labels=dict(wanted.labels),
        priority=wanted.priority,
        overlap=pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{wanted.overlap}"),
        paused=wanted.paused,
        stop_reason=schedule.stop_reason,
        owner=schedule.owner,
        next_time=to_timestamp(schedule.next_time),
        last_time=to_timestamp(schedule.last_time),
        last_run_id=schedule.last_run_id,
        last_outcome=schedule.last_outcome,
        last_message=schedule.last_message,
        create_time=to_timestamp(schedule.create_time),
        update_time=to_timestamp(schedule.update_time),
    )
    message.catch_up.FromTimedelta(wanted.catch_up)
    return message
