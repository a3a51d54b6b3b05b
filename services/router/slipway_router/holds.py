"""What an attempt holds of budgets: its worst case, until it is known what it cost."""

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from slipway_router.catalogue import Model


@dataclass(slots=True)
class Hold:
    """The money of one attempt at one model.

    `worst` dollars are reserved before anything is sent; `cost` and `tokens` are what is known to be used so far. An
    attempt that failed for nothing costs nothing: its hold is released.
    """

    model: Model
    worst: Decimal
    cost: Decimal = Decimal(0)
    tokens: int = 0
    ended: bool = False
    """The attempt is over: `cost` will not change."""
    passed_on: bool = False
    """The books know that it is over."""
    reserving: "asyncio.Future[Any] | None" = None
    """A reservation whose caller went away before it was made."""
    hold_id: UUID = field(default_factory=uuid4)
