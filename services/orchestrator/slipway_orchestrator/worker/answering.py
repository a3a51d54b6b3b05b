"""The model step: messages from prompt and passages, the answer streamed, its support checked."""

import re
import time
from contextlib import aclosing
from decimal import Decimal

from pydantic import JsonValue
from slipway.router.v1 import router_pb2
from slipway_chassis.channel import stream
from slipway_chassis.money import from_money, to_money

from slipway_orchestrator.core.definition import ModelCall
from slipway_orchestrator.core.events import StepCompleted, Usage
from slipway_orchestrator.core.retry import Failure
from slipway_orchestrator.expressions.template import as_text
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.worker.attempt import Attempt, AttemptFailed, record_of
from slipway_orchestrator.worker.citations import supports

# The question stands before and after the text, and the text is plain: small models repeat whatever stands last, and
# copy numbers, headings and line breaks for their own sake. Tried with SmolLM2-135M; larger models do not mind.
_GROUNDED = "You answer questions from the given text, in one or two sentences."
_GROUNDED_QUESTION = (
    "Question: {question}\n\nText: {text}\n\nUse the text to answer the question in one or two sentences: {question}"
)
_FEWEST_LETTERS = 2


async def ask_model(peers: Peers, call: ModelCall, attempt: Attempt) -> StepCompleted:
    """Ask, stream the deltas to those who watch, and judge the whole. Raises AttemptFailed or SlipwayError."""
    step, began = attempt.perform.step, time.monotonic()
    request = router_pb2.StreamChatCompletionRequest(chat=_chat(call, attempt))
    text, model, finished = "", "", None
    calls = stream(peers.router.StreamChatCompletion, request, token=attempt.token, timeout=attempt.timeout)
    async with aclosing(calls) as answers:
        async for answer in answers:
            match answer.WhichOneof("event"):
                case "started":
                    model = answer.started.model or answer.started.catalogue_model
                case "content_delta":
                    await attempt.stream(len(text), answer.content_delta)
                    text += answer.content_delta
                case "finished":
                    finished = answer.finished
                case _:
                    raise AttemptFailed(
                        Failure(
                            "MODEL_ANSWER_UNUSABLE", "", "the model asked for a tool that it was not offered", False
                        )
                    )
    if finished is None:
        raise AttemptFailed(Failure("MODEL_ANSWER_UNUSABLE", "", "the answer ended in the middle", True))
    records = record_of(finished.record)
    passages = _passages(attempt.input.get("context"))
    usage = Usage(
        finished.usage.input_tokens + finished.usage.cached_input_tokens,
        finished.usage.output_tokens + finished.usage.reasoning_tokens,
    )
    cost = from_money(finished.usage.cost)
    unusable = _unusable(text)
    citations = _citations(text, passages) if unusable is None else []
    if unusable is not None:
        failure = Failure(unusable[0], "", unusable[1], True, performed=True)
        raise AttemptFailed(failure, records=records, usage=usage, cost_usd=cost)
    return StepCompleted(
        attempt.perform.at.key,
        step.type,
        {
            "text": text.strip(),
            "citations": citations,
            "grounded": bool(citations),
            "model": model,
            "finish_reason": finished.finish_reason,
        },
        attempt=attempt.perform.attempt,
        duration_ms=round((time.monotonic() - began) * 1000),
        model=model,
        usage=usage,
        cost_usd=cost,
        records=records,
    )


def _chat(call: ModelCall, attempt: Attempt) -> router_pb2.ChatRequest:
    value = attempt.input
    context = value.get("context")
    passages = _passages(context)
    system = str(value["system"]) if value.get("system") else ""
    prompt = str(value["prompt"])
    if passages:
        system = f"{system}\n\n{_GROUNDED}".strip()
        prompt = _GROUNDED_QUESTION.format(
            text="\n".join(" ".join(str(p["text"]).split()) for p in passages), question=prompt
        )
    elif context:
        prompt = f"{as_text(context)}\n\n{prompt}"
    messages = [router_pb2.ChatMessage(role="system", content=system)] if system else []
    messages.append(router_pb2.ChatMessage(role="user", content=prompt))
    chat = router_pb2.ChatRequest(
        model=call.model,
        messages=messages,
        task=call.task,
        regions=attempt.regions or (),
        regions_demanded=attempt.regions is not None,
        session_id=attempt.run.session_id,
        labels={"agent": attempt.run.agent, "step": attempt.perform.at.key},
        effect=attempt.effect,
    )
    if call.max_tokens is not None:
        chat.max_tokens = min(call.max_tokens, max(attempt.tokens_left, 1))
    # What rests on passages should come out the same each time.
    if call.temperature is not None or passages:
        chat.temperature = call.temperature or 0.0
    if Decimal(attempt.cost_left) > 0:
        chat.max_cost.CopyFrom(to_money(Decimal(attempt.cost_left)))
    return chat


def _passages(context: JsonValue) -> list[dict[str, JsonValue]]:
    """The passages of a context that is a list of them (each has a text); none for any other context."""
    if not isinstance(context, list):
        return []
    found = [item for item in context if isinstance(item, dict) and isinstance(item.get("text"), str)]
    return found if len(found) == len(context) else []


def _unusable(text: str) -> tuple[str, str] | None:
    """Code and reason of an answer that is empty or rubbish."""
    if not text.strip():
        return "MODEL_EMPTY_ANSWER", "the model answered nothing"
    wrong = rubbish(text)
    return None if wrong is None else ("MODEL_ANSWER_UNUSABLE", wrong)


def _citations(text: str, passages: list[dict[str, JsonValue]]) -> list[JsonValue]:
    found = supports(text, [str(passage["text"]) for passage in passages])
    return [_citation(passages[support.passage], support.quote) for support in found]


def _citation(passage: dict[str, JsonValue], quote: str) -> JsonValue:
    shown: dict[str, JsonValue] = {
        name: passage.get(name) for name in ("passage_id", "document", "title", "headings", "page")
    }
    return {**shown, "quote": quote}


def rubbish(text: str) -> str | None:
    """Why nobody can use a text; None when it reads like one.

    Rubbish is: hardly a letter or digit, replacement characters of a broken encoding, or the same few words over and
    over (more than 20 words of which less than a tenth differ).
    """
    if sum(char.isalnum() for char in text) < _FEWEST_LETTERS and not text.strip().isalnum():
        return "the answer holds no words"
    if text.count("\ufffd") * 20 > len(text):
        return "the answer is not text"
    words = re.findall(r"\w+", text.lower())
    if len(words) > 20 and len(set(words)) * 10 < len(words):
        return "the answer repeats itself"
    return None
