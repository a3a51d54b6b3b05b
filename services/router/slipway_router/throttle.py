"""How fast models may be asked: buckets of requests and tokens, for all callers together and for each key.

Each bucket holds a minute's worth and fills evenly (GCRA, as in ITU-T I.371: one time per bucket says when it will be
full again). A call that finds a bucket empty takes its turn in the future, if that is near enough: calls wait in the
order in which they came, without asking again, and the queue is as long as `queue_seconds` allow.

Tokens are taken for the worst case; what a call did not use is given back when it has ended.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipway_chassis.errors import ResourceExhausted

from slipway_router.catalogue import Model, Rates

_MINUTE_MS = 60_000.0


class RateLimitReached(ResourceExhausted):
    """The model may not be asked faster, by all together or with this key; `retry_after` says when to come back."""

    reason = "RATE_LIMITED"


@dataclass(frozen=True, slots=True)
class Draw:
    """`amount` out of the bucket `key`, which holds `per_minute`."""

    key: str
    amount: int
    per_minute: int
    is_tokens: bool

    @property
    def cost_ms(self) -> float:
        """Milliseconds that it takes to fill again. Never more than the bucket: what is larger takes all of it."""
        return min(self.amount, self.per_minute) * _MINUTE_MS / self.per_minute


@dataclass(frozen=True, slots=True)
class Turn:
    """What a call has drawn, and the seconds until it may be sent."""

    draws: tuple[Draw, ...]
    wait: float


def draws_of(model: Model, tenant: str, subject: str, tokens: int) -> tuple[Draw, ...]:
    """What a call of at most `tokens` tokens takes from the buckets of `model`; nothing when it has no limits."""
    if model.throttle is None:
        return ()
    # Hashed: subjects are people.
    whose = hashlib.sha256(f"{tenant}\0{subject}".encode()).hexdigest()[:32]
    return (
        *_draws(f"{model.name}", model.throttle.together, tokens),
        *_draws(f"{model.name}:{whose}", model.throttle.each_key, tokens),
    )


def _draws(name: str, rates: Rates, tokens: int) -> list[Draw]:
    draws: list[Draw] = []
    if rates.requests_per_minute is not None:
        draws.append(Draw(f"{name}:requests", 1, rates.requests_per_minute, is_tokens=False))
    if rates.tokens_per_minute is not None:
        draws.append(Draw(f"{name}:tokens", tokens, rates.tokens_per_minute, is_tokens=True))
    return draws


class LocalBuckets:
    """Buckets of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}
        """Milliseconds at which a bucket is full again; one that is full has no entry."""

    def take(self, draws: Sequence[Draw], queue_seconds: float) -> float:
        """Milliseconds to wait after all was taken, or, negative, after which to ask again: nothing was taken then."""
        now = self._clock() * 1000
        self._full_at = {key: at for key, at in self._full_at.items() if at > now}
        filled = {draw.key: max(self._full_at.get(draw.key, 0.0), now) + draw.cost_ms for draw in draws}
        wait = max(at - now - _MINUTE_MS for at in filled.values())
        if wait > queue_seconds * 1000:
            return -wait
        self._full_at.update(filled)
        return max(wait, 0.0)

    def give_back(self, draws: Sequence[Draw]) -> None:
        """Put back what was not used."""
        for draw in draws:
            if draw.key in self._full_at:
                self._full_at[draw.key] -= draw.cost_ms
