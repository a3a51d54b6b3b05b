"""Rate limits: a token bucket per tenant and subject."""

from dataclasses import dataclass
from typing import Protocol

from slipway_chassis.errors import ResourceExhausted

from slipway_gateway.principal import Principal


class RateLimited(ResourceExhausted):
    """The caller sent more requests than its bucket holds."""

    reason = "RATE_LIMITED"


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """A bucket holds `burst` requests and gets `per_minute` new ones a minute."""

    per_minute: int
    burst: int


@dataclass(frozen=True, slots=True)
class RateState:
    """A bucket after a request: whether it was let through, what is left, seconds until the bucket is full again and,
    when it was not let through, until the next request is."""

    allowed: bool
    remaining: int
    reset: float
    retry_after: float


class RateLimiter(Protocol):
    """Counts requests. What it does when its store is away is its own, declared, decision."""

    policy: RatePolicy

    async def take(self, principal: Principal) -> RateState | None:
        """Takes one request out of the principal's bucket; None when nobody can tell (see the implementation)."""
        ...
