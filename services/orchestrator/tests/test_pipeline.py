"""The commits of one run: what may be decided while one is in flight, and what waits until it is durable."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from orchestrator_testing.definitions import LIMITS, workflow
from slipway_chassis.caller import Caller
from slipway_orchestrator.core.definition import Definition
from slipway_orchestrator.core.events import ApprovalDecided, Event, RunStarted, StepCompleted
from slipway_orchestrator.core.state import Totals
from slipway_orchestrator.definitions.catalogue import ToolDescription
from slipway_orchestrator.definitions.parse import parse
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import read_yaml
from slipway_orchestrator.expressions.evaluation import Evaluator, SlowLane
from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.store.journal import Head
from slipway_orchestrator.store.leases import Entry, InboxItem, Lease, SettledMeanwhile
from slipway_orchestrator.worker.advancing import Advance
from slipway_orchestrator.worker.crash import CrashPoints
from slipway_orchestrator.worker.held import Tools

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Store:
    """Leases in memory: each commit waits until the test lets it through."""

    seconds = 30.0

    def __init__(self) -> None:
        self.rows: list[tuple[datetime, Event]] = []
        self.commits: list[list[str]] = []
        self.parked: tuple[str, datetime] | None = None
        self.free = asyncio.Semaphore(0)
        self.waiting = asyncio.Event()
        self.open = False
        """Commits go through at once."""
        self.fails: list[Exception] = []
        self.items: list[InboxItem] = []

    async def read(self, _lease: Lease) -> list[tuple[datetime, Event]]:
        return list(self.rows)

    async def inbox(self, _lease: Lease) -> list[InboxItem]:
        return list(self.items)

    async def commit(self, lease: Lease, entry: Entry, _totals: Totals, *, park: Any = None) -> bool:
        if not self.open:
            self.waiting.set()
            await self.free.acquire()
            self.waiting.clear()
        if self.fails and any(isinstance(event, ApprovalDecided) for _, event in entry.events):
            raise self.fails.pop()
        self.rows += entry.events
        self.commits.append([event.kind for _, event in entry.events])
        self.items = [item for item in self.items if item.id not in entry.consumed]
        lease.head = Head(len(self.rows), "")
        self.parked = park
        return False

    async def renew(self, _lease: Lease) -> bool:
        return False


class Around:
    """Everything else that a worker has: definition, tools and their registry."""

    def __init__(self, definition: Definition, perform: Callable[[str], Any]) -> None:
        self._definition = definition
        self._perform = perform
        self.said: list[Any] = []

    async def definition(self, _run: RunIdentity) -> Definition:
        return self._definition

    async def suspended(self, _run: RunIdentity) -> None:
        return None

    async def token(self, _run: RunIdentity) -> str:
        return ""

    async def describe_tool(self, name: str, _token: str) -> ToolDescription:
        return ToolDescription(name, "", {"type": "object"}, {})

    def say(self, _channel: str, message: Any) -> None:
        self.said.append(message)

    async def perform(self, _lease: Lease, _state: Any, _definition: Any, action: Any, *_more: Any) -> Event:
        output = await self._perform(action.at.key)
        return StepCompleted(action.at.key, "tool", output, action.attempt)


def _definition(steps: str, result: str = "{}") -> Definition:
    problems = Problems()
    root = read_yaml(workflow(steps, result, limits=LIMITS.replace("steps: 40", "steps: 4000")), problems)
    parsed = None if root is None else parse(root, problems)
    problems.check()
    assert parsed is not None
    return parsed.definition


def _advance(store: Store, around: Around) -> Advance:
    caller = Caller(
        subject="alice",
        tenant="acme",
        kind="user",
        roles=frozenset(),
        groups=frozenset(),
        act="a@1",
        run_id="run_1",
        token_id="",
        expires_at=NOW,
    )
    run = RunIdentity("run_1", "acme", "a", 1, "", "alice", caller, "", "", "")
    lease = Lease(run, 1, "w", Head(1, ""), False, NOW, 0, NOW)
    store.rows.append((NOW, RunStarted("a", 1, "", "alice", {}, {})))
    everything = cast(Any, around)
    tools = Tools(
        leases=cast(Any, store),
        sources=everything,
        peers=everything,
        performer=everything,
        evaluator=Evaluator(cast(SlowLane, None)),
        policy=everything,
        announcer=everything,
        crash=CrashPoints(),
    )
    return Advance(tools, lease)


async def _nothing(_key: str) -> Any:
    raise AssertionError("nothing is performed here")


async def test_steps_without_effects_are_decided_while_a_commit_is_in_flight_and_gather_for_the_next() -> None:
    store = Store()
    chain = [{"id": "s0", "set": 1}, *({"id": f"s{n}", "set": f"${{steps.s{n - 1}.output + 1}}"} for n in range(1, 9))]
    around = Around(_definition(f"    {json.dumps(chain)}", "{n: '${steps.s8.output}'}"), _nothing)
    run = asyncio.create_task(_advance(store, around).run())
    await asyncio.wait_for(store.waiting.wait(), 20)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not store.commits
    assert not around.said  # nobody hears of what is not durable
    store.open = True
    store.free.release()
    await run
    first, second = store.commits
    assert first == ["step.started", "step.completed"] * (len(first) // 2)
    assert 2 <= len(first) < 18
    assert first + second == [*["step.started", "step.completed"] * 9, "run.succeeded"]
    # One announcement a commit, and that the run has ended.
    assert [said.get("run") for said in around.said] == [None, None, "run_1"]


async def test_an_effect_begins_only_when_all_before_it_is_durable() -> None:
    store, performed = Store(), list[str]()

    async def perform(key: str) -> Any:
        performed.append(key)
        return {}

    tool = "tool: {name: t, arguments: {}}"
    around = Around(_definition(f"    - {{id: a, set: 1}}\n    - {{id: b, {tool}}}"), perform)
    run = asyncio.create_task(_advance(store, around).run())
    await asyncio.wait_for(store.waiting.wait(), 20)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not performed
    store.open = True
    store.free.release()
    await run
    assert performed == ["b"]
    # A value goes together with the next intent, a result with the end.
    assert store.commits == [["step.started", "step.completed", "step.started"], ["step.completed", "run.succeeded"]]


async def test_an_outcome_is_kept_when_its_commit_comes_too_late_for_a_decision() -> None:
    """The approval runs out in the commit that holds the tool's result: somebody decided just before."""
    store, performed = Store(), list[str]()
    store.open = True
    begun = asyncio.Event()

    async def perform(key: str) -> Any:
        performed.append(key)
        begun.set()
        await asyncio.sleep(0.3)  # the approval runs out meanwhile
        return {"done": key}

    steps = """
    - parallel:
        - {id: b, tool: {name: t, arguments: {}}}
        - {id: gate, on_error: continue, approval: {show: x, approvers: [role:a], expires: 300ms}}"""
    store.fails = [SettledMeanwhile()]
    around = Around(_definition(steps, "{b: '${steps.b.output.done}'}"), perform)
    await asyncio.wait_for(_advance(store, around).run(), 20)
    assert not store.fails
    assert performed == ["b"]
    kinds = [event.kind for _, event in store.rows]
    assert kinds.count("step.started") == 3
    assert kinds[-1] == "run.succeeded"
    completed = [event for _, event in store.rows if isinstance(event, StepCompleted) and event.step_id == "b"]
    assert [event.output for event in completed] == [{"done": "b"}]


async def test_what_waits_for_a_commit_is_bounded() -> None:
    store = Store()
    chain = [{"id": f"s{n}", "set": n} for n in range(400)]
    run = asyncio.create_task(_advance(store, Around(_definition(f"    {json.dumps(chain)}"), _nothing)).run())
    await asyncio.wait_for(store.waiting.wait(), 20)
    for _ in range(3000):
        await asyncio.sleep(0)
    store.open = True
    store.free.release()
    await run
    assert max(len(commit) for commit in store.commits) <= 202
    assert sum(len(commit) for commit in store.commits) == 801
