"""What model calls used and cost."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import InvalidArgument, NotFound

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.resources.usage import (
    GroupBy,
    UsageGroup,
    UsagePage,
    UsageRow,
    UsageSummary,
    token_usage,
    usage_row,
)
from slipway_gateway.http.route import CallsDep

router = api_router("usage")


class UsageNotFound(NotFound):
    """The tenant has no model call of that id."""

    reason = "USAGE_NOT_FOUND"


@router.get("/usage", summary="Usage added up, or call by call")
async def get_usage(
    calls: CallsDep,
    group_by: Annotated[GroupBy | None, Query(description="Absent: the calls themselves, newest first.")] = None,
    start_time: Annotated[datetime | None, Query(description="From this time on (sums only).")] = None,
    end_time: Annotated[datetime | None, Query(description="Before this time (sums only).")] = None,
    run_id: Annotated[str, Query(max_length=64, description="Only this run (calls only).")] = "",
    page_size: PageSizeQuery = 0,
    page_token: PageTokenQuery = "",
) -> UsageSummary | UsagePage:
    """Sums by one dimension, dearest first; without `group_by` a page of calls."""
    if group_by is None:
        if start_time or end_time:
            raise InvalidArgument("a time range needs group_by", field="group_by")
        return await _calls(calls, run_id=run_id, page_size=page_size, page_token=page_token)
    message = pb.SummarizeUsageRequest(group_by=group_by)
    if start_time is not None:
        message.start_time.FromDatetime(_in_utc(start_time, "start_time"))
    if end_time is not None:
        message.end_time.FromDatetime(_in_utc(end_time, "end_time"))
    answer: pb.SummarizeUsageResponse = await calls.invoke(calls.peers.router.SummarizeUsage, message)
    groups = [UsageGroup(key=item.key, calls=item.calls, usage=token_usage(item.usage)) for item in answer.groups]
    return UsageSummary(group_by=group_by, groups=groups)


@router.get("/usage/{request_id}", summary="Usage of one model call")
async def get_usage_of_request(request_id: Annotated[str, Path(max_length=64)], calls: CallsDep) -> UsageRow:
    """The call whose answer carried this `x-slipway-request-id`."""
    page: pb.ListUsageResponse = await calls.invoke(
        calls.peers.router.ListUsage, pb.ListUsageRequest(request_id=request_id, page_size=1)
    )
    if not page.rows:
        raise UsageNotFound(f"there is no model call {request_id}")
    return usage_row(page.rows[0])


async def _calls(calls: CallsDep, *, run_id: str, page_size: int, page_token: str) -> UsagePage:
    answer: pb.ListUsageResponse = await calls.invoke(
        calls.peers.router.ListUsage, pb.ListUsageRequest(run_id=run_id, page_size=page_size, page_token=page_token)
    )
    return UsagePage(rows=[usage_row(row) for row in answer.rows], next_page_token=answer.next_page_token or None)


def _in_utc(time: datetime, field: str) -> datetime:
    if time.tzinfo is None or not 1970 <= time.year <= 9000:
        raise InvalidArgument("a time with a time zone, e.g. 2026-01-31T12:00:00Z", field=field)
    return time.astimezone(UTC).replace(tzinfo=None)
