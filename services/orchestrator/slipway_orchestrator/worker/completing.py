"""One chat completion through the router: the request, the deltas to those who watch, and the whole."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal

from slipway.router.v1 import router_pb2
from slipway_chassis.channel import stream
from slipway_chassis.money import from_money, to_money

from slipway_orchestrator.core.events import Record, Usage
from slipway_orchestrator.core.retry import Failure
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.worker.attempt import Attempt, AttemptFailed, record_of


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    calls: tuple[router_pb2.ToolCall, ...]
    model: str
    finish_reason: str
    usage: Usage
    cost_usd: Decimal
    records: tuple[Record, ...]

    def unusable(self, code: str, message: str) -> AttemptFailed:
        """The error of an answer that nobody can use; it was paid for all the same, and may be asked for anew."""
        failure = Failure(code, "", message, True, performed=True)
        return AttemptFailed(failure, records=self.records, usage=self.usage, cost_usd=self.cost_usd)


def chat_request(
    attempt: Attempt,
    messages: Sequence[router_pb2.ChatMessage],
    *,
    model: str,
    task: str,
    max_tokens: int | None,
    temperature: float | None,
) -> router_pb2.ChatRequest:
    """The request of an attempt, under its effect key and within what is left to the run."""
    chat = router_pb2.ChatRequest(
        model=model,
        messages=messages,
        task=task,
        regions=attempt.regions or (),
        regions_demanded=attempt.regions is not None,
        session_id=attempt.run.session_id,
        labels={"agent": attempt.run.agent, "step": attempt.perform.at.key},
        effect=attempt.effect,
    )
    if max_tokens is not None:
        chat.max_tokens = min(max_tokens, max(attempt.tokens_left, 1))
    if temperature is not None:
        chat.temperature = temperature
    if Decimal(attempt.cost_left) > 0:
        chat.max_cost.CopyFrom(to_money(Decimal(attempt.cost_left)))
    if Decimal(attempt.tree_cost) > 0:
        chat.run_max_cost.CopyFrom(to_money(Decimal(attempt.tree_cost)))
    return chat


async def complete(peers: Peers, chat: router_pb2.ChatRequest, attempt: Attempt) -> Completion:
    """Ask, and stream the deltas to those who watch. Raises AttemptFailed or SlipwayError."""
    request = router_pb2.StreamChatCompletionRequest(chat=chat)
    pieces: list[str] = []
    calls: list[router_pb2.ToolCall] = []
    model, length, finished = "", 0, None
    answers = stream(peers.router.StreamChatCompletion, request, token=attempt.token, timeout=attempt.timeout)
    async with aclosing(answers):
        async for answer in answers:
            match answer.WhichOneof("event"):
                case "started":
                    model = answer.started.model or answer.started.catalogue_model
                case "content_delta":
                    await attempt.stream(length, answer.content_delta)
                    length += len(answer.content_delta)
                    pieces.append(answer.content_delta)
                case "tool_call":
                    calls.append(answer.tool_call)
                case "finished":
                    finished = answer.finished
                case _:
                    pass  # a newer router tells more
    if finished is None:
        raise AttemptFailed(Failure("MODEL_ANSWER_UNUSABLE", "", "the answer ended in the middle", True))
    used = finished.usage
    return Completion(
        text="".join(pieces),
        calls=tuple(calls),
        model=model,
        finish_reason=finished.finish_reason,
        usage=Usage(
            used.input_tokens + used.cached_input_tokens + used.cache_write_tokens + used.image_tokens,
            used.output_tokens + used.reasoning_tokens,
        ),
        cost_usd=from_money(used.cost),
        records=record_of(finished.record),
    )
