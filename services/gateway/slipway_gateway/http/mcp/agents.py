"""Agents over MCP: a tool for each agent in production that starts a run, and one that looks at a run again."""

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, cast

import anyio
import mcp_types as types
from pydantic import Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import ErrorKind, SlipwayError

from slipway_gateway.http.calls import Calls
from slipway_gateway.http.gateway import Gateway
from slipway_gateway.http.mcp import results
from slipway_gateway.http.mcp.arguments import read
from slipway_gateway.http.resources.fields import Command, json_text
from slipway_gateway.http.resources.runs import TERMINAL_STATES, Run, run

PREFIX: Final = "agent."
LOOK: Final = "runs.get"
# Longest that a call waits for its run; the run goes on, and `runs.get` looks at it.
WAIT_SECONDS: Final = 300.0
_PAGE, _MOST = 100, 200
_KEPT_SCHEMAS = 2048
_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_PARKED = frozenset({"WAITING_APPROVAL", "PAUSED"})

Report = Callable[[float, str], Awaitable[None]]


class AgentTools:
    """Lists agents as tools and runs them."""

    def __init__(self) -> None:
        # A version never changes, so what it says of its input needs to be read once.
        self._schemas: OrderedDict[tuple[str, str, int], dict[str, Any]] = OrderedDict()

    async def listed(self, calls: Calls) -> list[types.Tool]:
        """Agents in production that the caller may read, at most 200, and the tool that looks at a run."""
        found: list[types.Tool] = []
        token = ""
        while len(found) < _MOST:
            page: agents_pb2.ListAgentsResponse = await calls.invoke(
                calls.peers.agents.ListAgents, agents_pb2.ListAgentsRequest(page_size=_PAGE, page_token=token)
            )
            ready = [agent for agent in page.agents if agent.production_version and not agent.HasField("suspension")]
            found += [await self._tool(calls, agent) for agent in ready]
            token = page.next_page_token
            if not token:
                break
        return [*found[:_MOST], _LOOK_TOOL] if found else []

    async def _tool(self, calls: Calls, agent: agents_pb2.Agent) -> types.Tool:
        return types.Tool(
            name=PREFIX + agent.agent,
            description=f"{agent.description or agent.agent}\n\nStarts a run of this agent and waits for its output.",
            input_schema=await self._input_schema(calls, agent),
        )

    async def _input_schema(self, calls: Calls, agent: agents_pb2.Agent) -> dict[str, Any]:
        key = (calls.principal.tenant, agent.agent, agent.production_version)
        schema = self._schemas.get(key)
        if schema is None:
            request = agents_pb2.GetAgentVersionRequest(agent=agent.agent, version=agent.production_version)
            answer: agents_pb2.GetAgentVersionResponse = await calls.invoke(calls.peers.agents.GetAgentVersion, request)
            schema = self._schemas[key] = _input_of(answer.version.definition_yaml)
            if len(self._schemas) > _KEPT_SCHEMAS:
                self._schemas.popitem(last=False)
        return schema

    async def call(
        self,
        gateway: Gateway,
        calls: Calls,
        agent: str,
        arguments: dict[str, Any],
        report: Report,
        *,
        request_id: str = "",
        tainted: bool = False,
    ) -> types.CallToolResult:
        """Start a run and wait for its end, or until it waits for a person; whoever cancels the call cancels the run.

        A call that repeats `request_id` (empty: none) starts no second run: it waits for the first one's end.
        `tainted`: the arguments derive from what came from outside, so the run does.

        Raises:
            SlipwayError: what the orchestrator raises.
        """
        message = pb.StartRunRequest(
            agent=agent,
            input_json=json_text(arguments),
            run_grant=gateway.grants.sign(calls.principal, agent),
            request_id=request_id,
            input_tainted=tainted,
        )
        started: pb.StartRunResponse = await calls.invoke(calls.peers.runs.StartRun, message)
        run_id = started.run.run_id
        try:
            await _follow(calls, run_id, report)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await _cancel(calls, run_id)
            raise
        return shown(await _get(calls, run_id))


class LookArguments(Command):
    """Which run to look at."""

    run_id: str = Field(min_length=1, max_length=64, description="Id of the run, run_…")


async def look(calls: Calls, arguments: dict[str, Any]) -> types.CallToolResult:
    """What a run has come to; raises InvalidToolArguments and what the orchestrator raises."""
    return shown(await _get(calls, read(LookArguments, arguments).run_id))


async def _follow(calls: Calls, run_id: str, report: Report) -> None:
    """Report the journal's events until the end, a wait for a person, or the longest wait."""
    request = pb.WatchRunRequest(run_id=run_id)
    try:
        watch = calls.stream(calls.peers.runs.WatchRun, request, timeout=WAIT_SECONDS)
        async with aclosing(watch) as updates:
            async for update in updates:
                event = update.event
                await report(event.seq, " ".join(filter(None, (event.kind, event.step_id))))
                if event.kind in ("run.waiting", "run.paused") and (await _get(calls, run_id)).state in _PARKED:
                    return
    except SlipwayError as error:
        if error.kind is not ErrorKind.DEADLINE_EXCEEDED:
            raise


async def _get(calls: Calls, run_id: str) -> Run:
    answer: pb.GetRunResponse = await calls.invoke(calls.peers.runs.GetRun, pb.GetRunRequest(run_id=run_id))
    return run(answer.run)


async def _cancel(calls: Calls, run_id: str) -> None:
    try:
        await calls.invoke(calls.peers.runs.CancelRun, pb.CancelRunRequest(run_id=run_id))
    except SlipwayError as error:
        # It has ended meanwhile, or the orchestrator is away: nobody is there any more to be told.
        if error.kind not in (ErrorKind.FAILED_PRECONDITION, ErrorKind.UNAVAILABLE):
            raise


def shown(current: Run) -> types.CallToolResult:
    """A run as a result: its output once it succeeded, its error once it failed, else where it stands."""
    meta = {"dev.slipway/run-id": current.run_id, "dev.slipway/run-state": current.state}
    if current.state == "SUCCEEDED":
        return results.answer(current.output, meta={**meta, results.TAINTED: current.output_tainted})
    if current.state in TERMINAL_STATES:
        reason = f"{current.error.code}: {current.error.message}" if current.error else current.state
        told = results.text(f"run {current.run_id} ended as {current.state}. {reason}")
        return types.CallToolResult(content=[told], is_error=True, _meta=meta)
    waiting = f"run {current.run_id} is {current.state}; look at it again with {LOOK}"
    return types.CallToolResult(
        content=[results.text(waiting)],
        structured_content={"run_id": current.run_id, "state": current.state},
        _meta=meta,
    )


def _input_of(definition_yaml: str) -> dict[str, Any]:
    """What a definition declares of its input; an object with anything in it when it declares none."""
    try:
        definition: Any = YAML(typ="safe").load(definition_yaml)
    except YAMLError:
        return _ANY_OBJECT
    spec: Any = cast("dict[str, Any]", definition).get("spec") if isinstance(definition, dict) else None
    declared: Any = cast("dict[str, Any]", spec).get("input") if isinstance(spec, dict) else None
    try:
        plain: Any = json.loads(json.dumps(declared))
    except (TypeError, ValueError):
        return _ANY_OBJECT
    return (
        {**_ANY_OBJECT, **plain} if isinstance(plain, dict) and plain.get("type", "object") == "object" else _ANY_OBJECT
    )


_LOOK_TOOL = types.Tool(
    name=LOOK,
    description="Tells what a run has come to: its output, its error, or where it stands.",
    input_schema=LookArguments.model_json_schema(),
    annotations=types.ToolAnnotations(read_only_hint=True, open_world_hint=False),
)
