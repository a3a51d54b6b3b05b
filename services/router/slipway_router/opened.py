"""What a provider has begun to answer, before it is passed on."""

from collections.abc import AsyncGenerator

from slipway_router import metrics
from slipway_router.attempts import AttemptTimes
from slipway_router.catalogue import Model
from slipway_router.chat import Completion, Piece
from slipway_router.errors import ContentFiltered


def judged(model: Model, completion: Completion, times: AttemptTimes) -> Completion:
    """The completion, unless the route has another model tried after the provider's content policy stopped it."""
    if completion.repaired:
        metrics.repaired.labels(model.name).inc()
    if completion.finish_reason == "content_filter" and times.limits.fall_back_on_content_filter:
        filtered = ContentFiltered(f"provider {model.provider.name} stopped the answer by its content policy")
        filtered.usage = completion.usage
        raise filtered
    return completion


class Opened:
    """A provider's stream whose first piece is here."""

    def __init__(self, pieces: AsyncGenerator[Piece | Completion, None]) -> None:
        self._pieces = pieces
        self.piece: Piece | Completion = Piece("", "")

    async def advance(self) -> None:
        """Go on to the next piece; raises ProviderFailure."""
        self.piece = await anext(self._pieces)

    async def aclose(self) -> None:
        """Stop the provider."""
        await self._pieces.aclose()
