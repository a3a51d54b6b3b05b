"""Bounded waiting for a condition: the tests' alternative to sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")


async def eventually(condition: Callable[[], T | Awaitable[T]], timeout: float = 10, *, interval: float = 0.02) -> T:
    """Calls `condition` (plain or async) until it is truthy and returns what it gave.

    An AssertionError of the condition counts as "not yet". Raises AssertionError after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        try:
            outcome = condition()
            value = await cast(Awaitable[T], outcome) if inspect.isawaitable(outcome) else outcome
            if value:
                return value
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise AssertionError(f"condition not met within {timeout} s") from failure
        await asyncio.sleep(interval)
