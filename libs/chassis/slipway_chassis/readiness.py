"""What a process needs of others, and whether it is there: the base of gRPC health, /readyz and a metric."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import Gauge

from slipway_chassis import telemetry
from slipway_chassis.logs import get_logger
from slipway_chassis.tls_failures import tls_reason

CHECK_SECONDS = 3.0

Check = Callable[[], Awaitable[None]]
"""Raises while something is missing."""

_log = get_logger(__name__)
_up = Gauge(
    "slipway_dependency_up",
    "Whether a server or service that this process uses answered the last check: 1, or 0",
    ["dependency"],
    registry=telemetry.registry,
)


class Readiness:
    """Checks by name. `needed`: without one of them the process is not ready. `watched`: without them it works on, with
    less; they are named, and leave it ready, so that their absence takes away no process that could still answer.

    `missing` and `degraded` hold what the last round found of either kind: name and what the check said.
    """

    def __init__(self, needed: Mapping[str, Check], watched: Mapping[str, Check] | None = None) -> None:
        self._needed = dict(needed)
        self._watched = dict(watched or {})
        self.missing: dict[str, str] = dict.fromkeys(self._needed, "not checked yet")
        self.degraded: dict[str, str] = {}

    async def look(self) -> None:
        """One round of all checks, at once, each in CHECK_SECONDS at most."""
        missing, degraded = await asyncio.gather(answers(self._needed), answers(self._watched))
        if missing and missing != self.missing:
            _log.warning("service.not_ready", missing=missing)
        if degraded != self.degraded:
            (_log.warning if degraded else _log.info)("service.degraded", degraded=degraded)
        self.missing, self.degraded = missing, degraded
        for name in (*self._needed, *self._watched):
            _up.labels(name).set(0 if name in missing or name in degraded else 1)

    async def missing_now(self) -> dict[str, str]:
        """What is needed and missing at this moment."""
        return await answers(self._needed)


async def answers(checks: Mapping[str, Check]) -> dict[str, str]:
    """What the checks that fail say, by name."""
    said = await asyncio.gather(*(_answer(check) for check in checks.values()))
    return {name: answer for name, answer in zip(checks, said, strict=True) if answer}


async def _answer(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return f"no answer in {CHECK_SECONDS:g} s"
    except Exception as error:  # noqa: BLE001 - any failure means that it is missing
        # Only the type: what an error says may name addresses and users. What is wrong with a certificate names none.
        reason = tls_reason(error)
        return type(error).__name__ + (f" (TLS: {reason})" if reason else "")
    return ""
