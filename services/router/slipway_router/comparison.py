"""Recorded requests answered anew by another model or route: what would it cost, how fast, how much alike?

A replay is a call of whoever compares, booked and audited like any other, within what the recorded request demanded.
Its audit record refers to the recorded request instead of repeating the words of another person.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from slipway_chassis.caller import Caller
from slipway_chassis.errors import SlipwayError
from slipway_chassis.ids import new_id

from slipway_router.call_record import OK
from slipway_router.calls import ModelCalls
from slipway_router.chat import Spent, ToolCall
from slipway_router.recordings import RecordedCall, RecordingStore
from slipway_router.tokens import TokenCount

_AT_ONCE = 4
_WORD = re.compile(r"\w+")
_NOTHING = Spent(TokenCount(), Decimal(0), estimated=False)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is compared of one call."""

    request_id: str
    catalogue_model: str
    outcome: str
    finish_reason: str
    spent: Spent
    latency_ms: int


@dataclass(frozen=True, slots=True)
class ComparedCall:
    """One request with both sides' figures."""

    recorded: Figures
    replayed: Figures
    text_similarity: float
    same_tool_calls: bool


@dataclass(frozen=True, slots=True)
class Totals:
    """One side added up."""

    answered: int
    failed: int
    spent: Spent
    median_latency_ms: int
    p95_latency_ms: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Both sides added up; means over the calls that both answered."""

    recorded: Totals
    replayed: Totals
    mean_text_similarity: float
    same_tool_calls: float
    note: str


class Comparisons:
    """Answers recorded requests anew."""

    def __init__(self, calls: ModelCalls, recordings: RecordingStore) -> None:
        self._calls = calls
        self._recordings = recordings

    async def run(
        self, caller: Caller, against: str, scope: str, limit: int, max_cost: Decimal
    ) -> AsyncGenerator[ComparedCall | Summary, None]:
        """Each of the `limit` newest requests recorded on `scope` as `against` answers it, at last the sums.

        Ends early when the replays have cost `max_cost` dollars; none begins that could go beyond.
        """
        compared: list[ComparedCall] = []
        spent = Decimal(0)
        note = ""
        recorded = [call async for call in self._recordings.newest(caller.tenant, scope, limit)]
        for start in range(0, len(recorded), _AT_ONCE):
            batch = recorded[start : start + _AT_ONCE]
            share = (max_cost - spent) / len(batch)
            answered = await asyncio.gather(*(self._replay(caller, against, call, share) for call in batch))
            for call in answered:
                spent += call.replayed.spent.cost
                if call.replayed.outcome == "MAX_COST_EXCEEDED":
                    note = f"the ceiling of {max_cost:f} USD leaves no room for more: {spent:f} are spent"
                    continue
                compared.append(call)
                yield call
            if note:
                break
        if not recorded:
            note = "nothing is recorded: set record_percent on the route"
        yield _summary(compared, note)

    async def _replay(self, caller: Caller, against: str, call: RecordedCall, max_cost: Decimal) -> ComparedCall:
        recording = call.recording
        request = replace(
            recording.request,
            model=against,
            max_cost=max_cost,
            request_id=new_id("req"),
            labels={"replay_of": call.request_id},
            replay_of=call.request_id,
        )
        before = Figures(
            call.request_id, call.catalogue_model, OK, recording.finish_reason, call.spent, call.latency_ms
        )
        began = asyncio.get_running_loop().time()
        try:
            answer = await self._calls.chat(caller, request)
        except SlipwayError as error:
            elapsed = _milliseconds_since(began)
            after = Figures(request.request_id, "", error.reason, "", _NOTHING, elapsed)
            return ComparedCall(before, after, 0.0, same_tool_calls=False)
        after = Figures(
            answer.request_id,
            answer.catalogue_model,
            OK,
            answer.finish_reason,
            answer.spent,
            _milliseconds_since(began),
        )
        return ComparedCall(
            before,
            after,
            similarity(recording.content, answer.content or ""),
            same_tool_calls=_called(recording.tool_calls) == _called(answer.tool_calls),
        )


def similarity(one: str, other: str) -> float:
    """F1 of the words that two texts share, as SQuAD measures answers: 1 for the same words, 0 for none in common."""
    left, right = Counter(_WORD.findall(one.lower())), Counter(_WORD.findall(other.lower()))
    if not left or not right:
        return float(left == right)
    shared = sum((left & right).values())
    return 2 * shared / (left.total() + right.total())


def _called(calls: Sequence[ToolCall]) -> list[tuple[str, str]]:
    return sorted((call.name, _canonical(call.arguments_json)) for call in calls)


def _canonical(arguments_json: str) -> str:
    return json.dumps(json.loads(arguments_json), sort_keys=True)


def _milliseconds_since(began: float) -> int:
    return round((asyncio.get_running_loop().time() - began) * 1000)


def _summary(compared: Sequence[ComparedCall], note: str) -> Summary:
    both = [call for call in compared if call.replayed.outcome == OK]
    return Summary(
        recorded=_totals([call.recorded for call in compared]),
        replayed=_totals([call.replayed for call in compared]),
        mean_text_similarity=sum(call.text_similarity for call in both) / len(both) if both else 0.0,
        same_tool_calls=sum(call.same_tool_calls for call in both) / len(both) if both else 0.0,
        note=note,
    )


def _totals(figures: Sequence[Figures]) -> Totals:
    answered = [one for one in figures if one.outcome == OK]
    latencies = sorted(one.latency_ms for one in answered)
    return Totals(
        answered=len(answered),
        failed=len(figures) - len(answered),
        spent=Spent(
            sum((one.spent.tokens for one in figures), TokenCount()),
            sum((one.spent.cost for one in figures), Decimal(0)),
            estimated=any(one.spent.estimated for one in figures),
        ),
        median_latency_ms=_quantile(latencies, 0.5),
        p95_latency_ms=_quantile(latencies, 0.95),
    )


def _quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0
