"""How long to wait: before a redelivery, and before connecting again."""

import asyncio
import random
from dataclasses import dataclass

RETRY_DELAYS = (0.2, 1.0, 4.0, 10.0)
"""Seconds before the second, third, … delivery of a message; the last one repeats."""


def retry_delay(deliveries: int) -> float:
    """Seconds between failed delivery number `deliveries` (from 1) and the next one."""
    return RETRY_DELAYS[min(deliveries, len(RETRY_DELAYS)) - 1]


@dataclass
class Reconnect:
    """Waits between attempts to reach the broker: doubling from `first` to `most` seconds, with jitter."""

    first: float = 0.1
    most: float = 5.0
    attempts: int = 0
    reported: bool = False

    def to_report(self) -> bool:
        """Whether this failure is the first since the last success: one log line per outage."""
        first, self.reported = not self.reported, True
        return first

    async def wait(self) -> None:
        """Waits for the turn of the next attempt."""
        ceiling = min(self.most, self.first * 2**self.attempts)
        self.attempts = min(self.attempts + 1, 16)
        # Jitter spreads the consumers that lost the same broker; it protects nothing secret.
        await asyncio.sleep(ceiling * random.uniform(0.5, 1))  # noqa: S311

    def succeeded(self) -> None:
        """The broker was reached: the next wait is a short one again."""
        self.attempts = 0
        self.reported = False
