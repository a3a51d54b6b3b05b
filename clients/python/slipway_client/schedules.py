"""Schedules of agents, and kill switches."""

from collections.abc import Iterator
from typing import Any

from slipway_client.models import Schedule, Suspension
from slipway_client.transport import Transport, listed, read, route


class Schedules:
    """`/v1/agents/{agent}/schedules`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def put(
        self,
        agent: str,
        schedule: str,
        cron: str,
        *,
        time_zone: str = "UTC",
        input: Any = None,  # noqa: A002 # the API's own word
        labels: dict[str, str] | None = None,
        priority: int | None = None,
        overlap: str | None = None,
        catch_up: str | None = None,
        paused: bool = False,
    ) -> Schedule:
        """Creates or replaces a schedule; its runs act in the caller's name. `overlap`: skip, queue or cancel_older."""
        body = {
            "cron": cron,
            "time_zone": time_zone,
            "input": input,
            "labels": labels,
            "priority": priority,
            "overlap": overlap,
            "catch_up": catch_up,
            "paused": paused,
        }
        given = {name: value for name, value in body.items() if value is not None}
        return read(Schedule, self._transport.call("PUT", route("agents", agent, "schedules", schedule), json=given))

    def get(self, agent: str, schedule: str) -> Schedule:
        """One schedule, with what came of its last due time."""
        return read(Schedule, self._transport.call("GET", route("agents", agent, "schedules", schedule)))

    def list(self, agent: str) -> Iterator[Schedule]:
        """An agent's schedules, by name."""
        return self._transport.pages(route("agents", agent, "schedules"), "schedules", Schedule)

    def delete(self, agent: str, schedule: str) -> None:
        """Ends a schedule; runs that it started go on."""
        self._transport.call("DELETE", route("agents", agent, "schedules", schedule))


class KillSwitch:
    """`/v1/suspension`: all agents of the tenant, or everything. One agent's is `Agents.suspend`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self) -> list[Suspension]:
        """What is suspended."""
        answer = self._transport.call("GET", route("suspension"))
        return [read(Suspension, one) for one in listed(answer, "suspensions")]

    def put(self, *, suspended: bool, reason: str = "", scope: str = "TENANT") -> list[Suspension]:
        """Suspends or resumes the tenant, or everything (`scope` ALL); a reason is required to suspend."""
        body = {"scope": scope, "suspended": suspended, "reason": reason}
        answer = self._transport.call("PUT", route("suspension"), json=body, timeout=90)
        return [read(Suspension, one) for one in listed(answer, "suspensions")]
