"""The account of one call while it runs: attempts, tokens, cost, outcome. One record is one usage row."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID, uuid4

from slipway_chassis.caller import Caller
from slipway_chassis.ids import new_id

from slipway_router.chat import Effect, Spent, ToolCall
from slipway_router.eligibility import Candidate
from slipway_router.holds import Hold
from slipway_router.routing import Plan
from slipway_router.tokens import TokenCount, estimated_tokens

Operation = Literal["chat", "embeddings"]
OK = "ok"
CANCELLED = "CANCELLED"
"""Outcome of a call whose caller went away."""


@dataclass(frozen=True, slots=True)
class AttemptNote:
    """One attempt at one model; `outcome` is "ok" or the reason of the failure."""

    model: str
    provider: str
    outcome: str
    status: int | None
    latency_ms: int
    hedge: bool = False
    """Started beside another one that was slow."""


@dataclass(slots=True)
class CallRecord:
    """What is known of a call so far."""

    caller: Caller
    operation: Operation
    requested_model: str
    task: str
    labels: Mapping[str, str]
    effect: Effect | None
    request_id: str
    run_max_cost: Decimal | None = None
    """Most that all calls of the root run may cost together."""
    call_id: UUID = field(default_factory=uuid4)
    holds: list[Hold] = field(default_factory=list[Hold])
    """What the attempts hold of budgets, one each."""
    started: float = field(default_factory=time.monotonic)
    plan: Plan | None = None
    attempts: list[AttemptNote] = field(default_factory=list[AttemptNote])
    candidate: Candidate | None = None
    """The candidate that answers, or was tried last."""
    returned_model: str = ""
    tokens: TokenCount = field(default_factory=TokenCount)
    cost: Decimal = Decimal(0)
    estimated: bool = False
    cached: bool = False
    """Answered from the tenant's cache."""
    text: list[str] = field(default_factory=list[str])
    """The answer's text so far: what a caller who goes away has had."""
    called: Sequence[ToolCall] = ()
    """Calls of tools that the answer asks for."""
    output: Mapping[str, object] | None = None
    """The answer for the audit record."""
    outcome: str = ""
    end_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    latency_ms: int = 0

    @staticmethod
    def begin(
        caller: Caller,
        operation: Operation,
        *,
        model: str,
        task: str,
        labels: Mapping[str, str],
        effect: Effect | None,
        request_id: str = "",
        run_max_cost: Decimal | None = None,
    ) -> "CallRecord":
        """A record that starts now; it gets a request id if it has none."""
        return CallRecord(
            caller, operation, model, task, labels, effect, request_id or new_id("req"), run_max_cost=run_max_cost
        )

    @property
    def run_id(self) -> str:
        """The run that makes the call: of the effect's key, else of the caller's token."""
        return self.effect.run_id if self.effect else self.caller.run_id or ""

    @property
    def root_run_id(self) -> str:
        """The run whose budget pays; empty outside runs."""
        return self.effect.root_run_id if self.effect else self.caller.run_id or ""

    @property
    def spent(self) -> Spent:
        """Tokens and cost so far."""
        return Spent(self.tokens, self.cost, self.estimated, self.cached)

    def spend(self, hold: Hold, tokens: TokenCount) -> None:
        """Add what the attempt that has `hold` used."""
        cost = hold.model.price.cost(tokens)
        hold.cost += cost
        hold.tokens += tokens.prompt + tokens.completion
        self.tokens += tokens
        self.cost += cost

    def spend_estimate(self, hold: Hold) -> None:
        """Add an estimate from what was sent and what came back: the provider reported nothing."""
        assert self.plan is not None  # noqa: S101 - there is no attempt without a plan
        written = "".join([*self.text, *(call.name + call.arguments_json for call in self.called)])
        output = estimated_tokens([written]) if written else 0
        self.spend(hold, TokenCount(input=self.plan.demand.input_estimate, output=output))
        self.estimated = True

    def elapsed(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.started

    def end(self, outcome: str) -> None:
        """Note how and when the call ended."""
        self.outcome = outcome
        self.end_time = datetime.now(UTC)
        self.latency_ms = round(self.elapsed() * 1000)
