"""Which task a request is, for callers who do not say: the nearest of the catalogue's examples, by embeddings.

The embedding is a call like any other: it goes to models that the request's demands allow only, and is on the bill as a
call of its own. Where the classifier cannot be asked, or nothing is near enough, the default route applies.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.errors import SlipwayError

from slipway_router.answers import EmbeddingsAnswer
from slipway_router.catalogue import Classifier
from slipway_router.chat import ChatRequest, EmbeddingsRequest
from slipway_router.routing import Proposal

_MOST_CHARACTERS = 2000
"""So much of the last message is looked at: embedding models read little more."""
_KNOWN = 2048

Embed = Callable[[Caller, EmbeddingsRequest], Awaitable[EmbeddingsAnswer]]


class TaskClassifier:
    """Proposes tasks. Vectors of the examples and recent proposals are kept."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._classifier: Classifier | None = None
        self._examples: Any = None
        self._proposals: OrderedDict[bytes, Proposal] = OrderedDict()

    async def propose(self, caller: Caller, classifier: Classifier, request: ChatRequest) -> Proposal:
        """The task that the last words of the user are nearest to, or why none is proposed."""
        text = _last_words(request)
        if not text:
            return Proposal(note="there is no text to classify")
        if classifier is not self._classifier:
            self._classifier, self._examples = classifier, None
            self._proposals.clear()
        # By tenant: what one asked tells nothing to another, not even by the time it takes.
        key = hashlib.sha256(f"{caller.tenant}\0{text}".encode()).digest()
        known = self._proposals.get(key)
        if known is not None:
            return known
        try:
            async with asyncio.timeout(classifier.timeout_seconds):
                vectors = await self._vectors(caller, classifier, text, request)
        except SlipwayError as error:
            return Proposal(note=f"the classifier could not be asked: {error.reason}")
        except TimeoutError:
            return Proposal(note="the classifier took too long")
        proposal = self._proposals[key] = _nearest(classifier, *vectors)
        if len(self._proposals) > _KNOWN:
            self._proposals.popitem(last=False)
        return proposal

    async def _vectors(
        self, caller: Caller, classifier: Classifier, text: str, request: ChatRequest
    ) -> tuple[Sequence[float], Any]:
        import numpy as np

        examples = self._examples
        texts = (text,) if examples is not None else (text, *(example for _, example in classifier.examples))
        answer = await self._embed(
            caller,
            EmbeddingsRequest(
                inputs=texts,
                model=classifier.model.name,
                regions=request.regions,
                data_classes=request.data_classes,
                run_max_cost=request.run_max_cost,
                # Not an effect by itself: it says which run's budget pays.
                effect=request.effect,
            ),
        )
        if examples is None:
            examples = _unit(np.array(answer.values[1:], dtype=np.float32))
            if classifier is self._classifier:
                self._examples = examples
        return answer.values[0], examples


def _nearest(classifier: Classifier, vector: Sequence[float], examples: Any) -> Proposal:
    import numpy as np

    similarities = examples @ _unit(np.array([vector], dtype=np.float32))[0]
    best = int(similarities.argmax())
    task, similarity = classifier.examples[best][0], round(float(similarities[best]), 4)
    if similarity < classifier.minimum_similarity:
        return Proposal(
            similarity=similarity,
            note=f"nothing is near enough: {similarity:g} to {task}, below {classifier.minimum_similarity:g}",
        )
    return Proposal(task, similarity)


def _unit(vectors: Any) -> Any:
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def _last_words(request: ChatRequest) -> str:
    for message in reversed(request.messages):
        if message.role == "user":
            return message.text().strip()[:_MOST_CHARACTERS]
    return ""
