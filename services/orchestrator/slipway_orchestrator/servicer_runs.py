"""gRPC: slipway.runs.v1."""

from collections.abc import AsyncIterator
from datetime import UTC

from slipway.runs.v1 import runs_pb2, runs_pb2_grpc
from slipway_chassis.caller import current_caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.paging import decode_token, encode_token, page_size

from slipway_orchestrator import convert
from slipway_orchestrator.deciding import ApprovalDesk, DecisionRequest
from slipway_orchestrator.forking import ForkDesk, ForkRequest
from slipway_orchestrator.launching import StartRequest
from slipway_orchestrator.replaying import ReplayDesk
from slipway_orchestrator.servicer_agents import request_key
from slipway_orchestrator.starting import RunDesk
from slipway_orchestrator.steering import CancelFilter, SteeringDesk
from slipway_orchestrator.watching import Delta, Watcher

_MANY, _DEFAULT = 200, 50


class RunsServicer(runs_pb2_grpc.RunsServiceServicer):
    """Converts and calls the desks."""

    def __init__(
        self,
        runs: RunDesk,
        steering: SteeringDesk,
        forks: ForkDesk,
        replays: ReplayDesk,
        approvals: ApprovalDesk,
        watcher: Watcher,
    ) -> None:
        self._runs = runs
        self._steering = steering
        self._forks = forks
        self._replays = replays
        self._approvals = approvals
        self._watcher = watcher

    async def StartRun(self, request: runs_pb2.StartRunRequest, context: object) -> runs_pb2.StartRunResponse:
        """Commit a run and answer at once."""
        start = StartRequest(
            agent=request.agent,
            version=request.version,
            input_json=request.input_json,
            session_id=request.session_id,
            labels=dict(request.labels),
            run_grant=request.run_grant,
            priority=request.priority,
            not_before=request.not_before.ToDatetime(UTC) if request.HasField("not_before") else None,
            input_tainted=request.input_tainted,
        )
        run = await self._runs.start(current_caller(), start, request_key("StartRun", request, request.request_id))
        return runs_pb2.StartRunResponse(run=convert.run_message(run))

    async def GetRun(self, request: runs_pb2.GetRunRequest, context: object) -> runs_pb2.GetRunResponse:
        """Answer with a run."""
        run = await self._runs.get(current_caller(), request.run_id)
        details = await self._runs.details(run)
        return runs_pb2.GetRunResponse(run=convert.run_message(run, details=details))

    async def ListRuns(self, request: runs_pb2.ListRunsRequest, context: object) -> runs_pb2.ListRunsResponse:
        """Page through runs, newest first."""
        caller, limit = current_caller(), page_size(request.page_size, _DEFAULT, _MANY)
        cursor = decode_token(caller.tenant, "ListRuns", request.page_token, (str,))
        runs, last = await self._runs.page(
            caller,
            agent=request.agent,
            states=[convert.run_state(state) for state in request.states],
            labels=dict(request.labels),
            parent_run_id=request.parent_run_id,
            before=str(cursor[0]) if cursor else "",
            limit=limit,
        )
        return runs_pb2.ListRunsResponse(
            runs=[convert.run_message(run, whole=False) for run in runs],
            next_page_token=encode_token(caller.tenant, "ListRuns", last) if last else "",
        )

    async def ListRunEvents(
        self, request: runs_pb2.ListRunEventsRequest, context: object
    ) -> runs_pb2.ListRunEventsResponse:
        """Page through a journal."""
        after, limit = _after(request.after_seq), page_size(request.page_size, 100, 1000)
        rows, more = await self._runs.events(current_caller(), request.run_id, after, limit)
        return runs_pb2.ListRunEventsResponse(events=[convert.event_message(row) for row in rows], more=more)

    async def WatchRun(
        self, request: runs_pb2.WatchRunRequest, context: object
    ) -> AsyncIterator[runs_pb2.WatchRunResponse]:
        """Follow a journal to its end."""
        updates = self._watcher.watch(
            current_caller(), request.run_id, _after(request.after_seq), deltas=request.include_deltas
        )
        async for update in updates:
            if isinstance(update, Delta):
                delta = runs_pb2.ModelDelta(
                    step_id=update.step_id, attempt=update.attempt, offset=update.offset, text=update.text
                )
                yield runs_pb2.WatchRunResponse(delta=delta)
            else:
                yield runs_pb2.WatchRunResponse(event=convert.event_message(update))

    async def CancelRun(self, request: runs_pb2.CancelRunRequest, context: object) -> runs_pb2.CancelRunResponse:
        """Ask a run to stop."""
        key = request_key("CancelRun", request, request.request_id)
        run = await self._steering.cancel(current_caller(), request.run_id, request.reason, key, force=request.force)
        return runs_pb2.CancelRunResponse(run=convert.run_message(run))

    async def CancelRuns(self, request: runs_pb2.CancelRunsRequest, context: object) -> runs_pb2.CancelRunsResponse:
        """Ask all runs to stop that match."""
        wanted = CancelFilter(
            agent=request.agent,
            states=[convert.run_state(state) for state in request.states],
            labels=dict(request.labels),
            limit=request.limit,
        )
        key = request_key("CancelRuns", request, request.request_id)
        count, more = await self._steering.cancel_many(
            current_caller(), wanted, request.reason, key, force=request.force
        )
        return runs_pb2.CancelRunsResponse(count=count, more=more)

    async def PauseRun(self, request: runs_pb2.PauseRunRequest, context: object) -> runs_pb2.PauseRunResponse:
        """Keep a run from going on."""
        key = request_key("PauseRun", request, request.request_id)
        run = await self._steering.pause(current_caller(), request.run_id, request.reason, key)
        return runs_pb2.PauseRunResponse(run=convert.run_message(run))

    async def ResumeRun(self, request: runs_pb2.ResumeRunRequest, context: object) -> runs_pb2.ResumeRunResponse:
        """Let a paused run go on."""
        key = request_key("ResumeRun", request, request.request_id)
        run = await self._steering.resume(current_caller(), request.run_id, request.reason, key)
        return runs_pb2.ResumeRunResponse(run=convert.run_message(run))

    async def SignalRun(self, request: runs_pb2.SignalRunRequest, context: object) -> runs_pb2.SignalRunResponse:
        """Hand a run a value."""
        key = request_key("SignalRun", request, request.request_id)
        run = await self._steering.signal(current_caller(), request.run_id, request.name, request.payload_json, key)
        return runs_pb2.SignalRunResponse(run=convert.run_message(run))

    async def RaiseRunLimits(
        self, request: runs_pb2.RaiseRunLimitsRequest, context: object
    ) -> runs_pb2.RaiseRunLimitsResponse:
        """Raise limits of a run."""
        key = request_key("RaiseRunLimits", request, request.request_id)
        wanted = convert.new_limits(request.limits)
        run = await self._steering.raise_limits(current_caller(), request.run_id, wanted, key)
        return runs_pb2.RaiseRunLimitsResponse(run=convert.run_message(run))

    async def ForkRun(self, request: runs_pb2.ForkRunRequest, context: object) -> runs_pb2.ForkRunResponse:
        """Start a run from a copy of another's journal."""
        wanted = ForkRequest(
            run_id=request.run_id,
            seq=request.seq,
            version=request.version,
            input_json=request.input_json,
            labels=dict(request.labels),
            run_grant=request.run_grant,
        )
        key = request_key("ForkRun", request, request.request_id)
        return runs_pb2.ForkRunResponse(run=convert.run_message(await self._forks.fork(current_caller(), wanted, key)))

    async def ReplayRun(self, request: runs_pb2.ReplayRunRequest, context: object) -> runs_pb2.ReplayRunResponse:
        """Decide a finished run once more."""
        outcome = await self._replays.replay(current_caller(), request.run_id)
        return convert.replay_message(outcome)

    async def ListApprovals(
        self, request: runs_pb2.ListApprovalsRequest, context: object
    ) -> runs_pb2.ListApprovalsResponse:
        """Page through approvals, newest first."""
        caller, limit = current_caller(), page_size(request.page_size, _DEFAULT, _MANY)
        cursor = decode_token(caller.tenant, "ListApprovals", request.page_token, (str,))
        approvals, last = await self._approvals.page(
            caller,
            states=[convert.approval_state(state) for state in request.states],
            run_id=request.run_id,
            before=str(cursor[0]) if cursor else "",
            limit=limit,
        )
        return runs_pb2.ListApprovalsResponse(
            approvals=[convert.approval_message(approval) for approval in approvals],
            next_page_token=encode_token(caller.tenant, "ListApprovals", last) if last else "",
        )

    async def GetApproval(self, request: runs_pb2.GetApprovalRequest, context: object) -> runs_pb2.GetApprovalResponse:
        """Answer with an approval."""
        approval = await self._approvals.get(current_caller(), request.approval_id)
        return runs_pb2.GetApprovalResponse(approval=convert.approval_message(approval))

    async def DecideApproval(
        self, request: runs_pb2.DecideApprovalRequest, context: object
    ) -> runs_pb2.DecideApprovalResponse:
        """Settle an approval."""
        decision = DecisionRequest(
            approval_id=request.approval_id,
            decision=convert.decision(request.decision),
            arguments_digest=request.arguments_digest,
            arguments_json=request.arguments_json,
            message=request.message,
        )
        key = request_key("DecideApproval", request, request.request_id)
        approval = await self._approvals.decide(current_caller(), decision, key)
        return runs_pb2.DecideApprovalResponse(approval=convert.approval_message(approval))


def _after(seq: int) -> int:
    if seq < 0:
        raise InvalidArgument("must not be negative", field="after_seq")
    return seq
