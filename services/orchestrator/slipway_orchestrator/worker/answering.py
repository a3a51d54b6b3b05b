"""The model step: messages from prompt and passages, the answer streamed, its support checked."""

import re
import time

from pydantic import JsonValue
from slipway.router.v1 import router_pb2

from slipway_orchestrator.core.definition import ModelCall
from slipway_orchestrator.core.events import StepCompleted
from slipway_orchestrator.expressions.template import as_text
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.worker.attempt import Attempt
from slipway_orchestrator.worker.citations import supports
from slipway_orchestrator.worker.completing import Completion, chat_request, complete

# The question stands before and after the text, and the text is plain: small models repeat whatever stands last, and
# copy numbers, headings and line breaks for their own sake. Tried with SmolLM2-135M; larger models do not mind.
_GROUNDED = "You answer questions from the given text, in one or two sentences."
_GROUNDED_QUESTION = (
    "Question: {question}\n\nText: {text}\n\nUse the text to answer the question in one or two sentences: {question}"
)
_FEWEST_LETTERS = 2


async def ask_model(peers: Peers, call: ModelCall, attempt: Attempt) -> StepCompleted:
    """Ask, stream the deltas to those who watch, and judge the whole. Raises AttemptFailed or SlipwayError."""
    began = time.monotonic()
    passages = _passages(attempt.input.get("context"))
    answer = await complete(peers, _chat(call, attempt, passages), attempt)
    unusable = _unusable(answer)
    if unusable is not None:
        raise answer.unusable(*unusable)
    citations = _citations(answer.text, passages)
    return StepCompleted(
        attempt.perform.at.key,
        attempt.perform.step.type,
        {
            "text": answer.text.strip(),
            "citations": citations,
            "grounded": bool(citations),
            "model": answer.model,
            "finish_reason": answer.finish_reason,
        },
        attempt=attempt.perform.attempt,
        duration_ms=round((time.monotonic() - began) * 1000),
        model=answer.model,
        usage=answer.usage,
        cost_usd=answer.cost_usd,
        records=answer.records,
        tainted=attempt.tainted or None,
    )


def _chat(call: ModelCall, attempt: Attempt, passages: list[dict[str, JsonValue]]) -> router_pb2.ChatRequest:
    value = attempt.input
    context = value.get("context")
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
    return chat_request(
        attempt,
        messages,
        model=call.model,
        task=call.task,
        max_tokens=call.max_tokens,
        # What rests on passages should come out the same each time.
        temperature=0.0 if passages and call.temperature is None else call.temperature,
    )


def _passages(context: JsonValue) -> list[dict[str, JsonValue]]:
    """The passages of a context that is a list of them (each has a text); none for any other context."""
    if not isinstance(context, list):
        return []
    found = [item for item in context if isinstance(item, dict) and isinstance(item.get("text"), str)]
    return found if len(found) == len(context) else []


def _unusable(answer: Completion) -> tuple[str, str] | None:
    """Code and reason of an answer that is empty or rubbish."""
    text = answer.text
    if answer.calls:
        return "MODEL_ANSWER_UNUSABLE", "the model asked for a tool that it was not offered"
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
