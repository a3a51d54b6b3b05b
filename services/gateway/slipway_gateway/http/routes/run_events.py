"""A run's journal: as pages, or followed live as server-sent events."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import structlog
from fastapi import Header, Query, Request, Response
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import ErrorKind, InvalidArgument, SlipwayError

from slipway_gateway.http import sse
from slipway_gateway.http.api import PageTokenQuery, api_router
from slipway_gateway.http.calls import Calls
from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.resources.runs import (
    TERMINAL_KINDS,
    TERMINAL_STATES,
    RunEventPage,
    model_delta,
    run,
    run_event,
)
from slipway_gateway.http.route import CallsDep, GatewayDep
from slipway_gateway.http.routes.runs import RunId

router = api_router("runs")
log = structlog.get_logger(__name__)

MEDIA_TYPE = "text/event-stream"
# One watch lives this long; then the gateway opens the next where it ended, after it has looked at the subject again.
WATCH_SECONDS = 300.0
MAX_SEQ = 2**62


class EventNotYet(InvalidArgument):
    """The journal has no event of that number yet: nobody can have seen it."""

    reason = "EVENT_NOT_YET"


@router.get(
    "/runs/{run_id}/events",
    response_model=RunEventPage,
    responses={
        200: {
            "description": "A page of the journal; or, for `Accept: text/event-stream`, the journal followed live: "
            "`id` is the sequence number, `event` the kind, `data` the event. Token deltas are `model.delta` without "
            "an id. The stream ends after the terminal event.",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        204: {"description": "Nothing is left to be followed: the run has ended, and its last event was seen."},
    },
    summary="Read or follow a run's events",
)
async def list_run_events(
    run_id: RunId,
    request: Request,
    calls: CallsDep,
    gateway: GatewayDep,
    after_seq: Annotated[int, Query(ge=0, le=MAX_SEQ, description="Only events after this one.")] = 0,
    page_size: Annotated[int, Query(ge=0, le=1000)] = 0,
    page_token: PageTokenQuery = "",
    last_event_id: Annotated[str | None, Header(description="Sequence number of the last event seen.")] = None,
) -> Response | RunEventPage:
    """JSON pages, or a live stream that resumes after `Last-Event-ID`; an empty one starts from the beginning."""
    if MEDIA_TYPE in request.headers.get("accept", "").lower():
        field = "after_seq" if last_event_id is None else "Last-Event-ID"
        after = after_seq if last_event_id is None else _sequence_number(last_event_id, field)
        return await _follow(gateway, calls, run_id, after, field)
    after = _sequence_number(page_token, "page_token") if page_token else after_seq
    answer: pb.ListRunEventsResponse = await calls.invoke(
        calls.peers.runs.ListRunEvents,
        pb.ListRunEventsRequest(run_id=run_id, after_seq=after, page_size=page_size),
    )
    following = str(answer.events[-1].seq) if answer.more and answer.events else None
    return RunEventPage(events=[run_event(item) for item in answer.events], next_page_token=following)


def _sequence_number(text: str, field: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or int(text[:20]) > MAX_SEQ:
        raise InvalidArgument("this is not the sequence number of an event", field=field)
    return int(text[:20])


async def _follow(gateway: Gateway, calls: Calls, run_id: str, after: int, field: str) -> Response:
    # Read first: what is wrong must be a problem, and cannot be any more once the stream has begun.
    answer: pb.GetRunResponse = await calls.invoke(calls.peers.runs.GetRun, pb.GetRunRequest(run_id=run_id))
    current = run(answer.run)
    if after > current.last_seq:
        raise EventNotYet(f"the run has only {current.last_seq} events", field=field)
    if current.state in TERMINAL_STATES and after >= current.last_seq:
        # The one answer after which an EventSource does not connect again.
        return Response(status_code=204)
    return sse.ClosingStream(_events(gateway, calls, run_id, after), media_type=MEDIA_TYPE, headers=sse.HEADERS)


async def _events(gateway: Gateway, calls: Calls, run_id: str, after: int) -> AsyncGenerator[bytes]:
    """Frames until the terminal event, the maximal age of a stream, or the gateway's stop.

    A watch that breaks (its deadline, a restarted orchestrator) is opened anew after the last event that was sent.
    """
    ends = time.monotonic() + gateway.limits.max_stream
    # At once, so that headers reach the client before the first event does.
    yield sse.HEARTBEAT
    while time.monotonic() < ends and not gateway.stopping.is_set():
        request = pb.WatchRunRequest(run_id=run_id, after_seq=after, include_deltas=True)
        try:
            watch = calls.stream(calls.peers.runs.WatchRun, request, timeout=WATCH_SECONDS)
            async with aclosing(_with_heartbeats(gateway, watch)) as updates:
                async for update in updates:
                    if update is None:
                        yield sse.HEARTBEAT
                    elif update.HasField("delta"):
                        yield sse.event(model_delta(update.delta).model_dump_json(), kind="model.delta")
                    elif update.event.seq > after:
                        after = update.event.seq
                        event = run_event(update.event)
                        yield sse.event(event.model_dump_json(), kind=event.kind, identifier=str(event.seq))
                        if event.kind in TERMINAL_KINDS:
                            return
            # The service ends a watch only after the terminal event: which was before `after`, then.
            if not gateway.stopping.is_set():
                return
        except SlipwayError as error:
            if error.kind not in (ErrorKind.DEADLINE_EXCEEDED, ErrorKind.UNAVAILABLE):
                log.warning("run_events.broken", run_id=run_id, code=error.reason)
                return
            yield sse.HEARTBEAT
            if error.kind is ErrorKind.UNAVAILABLE:
                await _pause(gateway, error.retry_after or 1.0)
        if not await _is_still_known(gateway, calls):
            return


async def _is_still_known(gateway: Gateway, calls: Calls) -> bool:
    """False too when the directory cannot be asked: the client comes back, with a token that is looked at."""
    try:
        return await gateway.directory.find(calls.principal.tenant, calls.principal.subject) is not None
    except SlipwayError as error:
        log.warning("run_events.directory_unavailable", code=error.reason)
        return False


async def _with_heartbeats(gateway: Gateway, watch: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """The updates of a watch, and None whenever none came for the heartbeat's time; ends at the gateway's stop."""
    stopping = asyncio.create_task(gateway.stopping.wait())
    following: asyncio.Task[Any] | None = None
    try:
        while not stopping.done():
            following = following or asyncio.create_task(_next(watch))
            await asyncio.wait(
                {following, stopping}, timeout=gateway.limits.heartbeat, return_when=asyncio.FIRST_COMPLETED
            )
            if following.done():
                update = following.result()
                following = None
                if update is None:
                    return
                yield update
            elif not stopping.done():
                yield None
    finally:
        tasks = [stopping, *([following] if following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await watch.aclose()


async def _next(watch: AsyncGenerator[Any]) -> Any:
    return await anext(watch, None)


async def _pause(gateway: Gateway, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await gateway.stopping.wait()
    except TimeoutError:
        return
