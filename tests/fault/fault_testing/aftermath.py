"""What servers that were away must not leave behind: rows that wait for nobody, held budgets, leaks, unknown errors."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncpg
import psutil
from slipway_testkit.servers.postgres import PostgresServer
from slipway_testkit.servers.rabbitmq import RabbitServer

from fault_testing.desk import until
from fault_testing.outages import PROCESSES, Outages
from fault_testing.processes import metric, running

_PATIENCE = 180
# Pools close what they don't use after a minute; what a process has open then may differ by what they keep.
_MORE_FILES = 24
_MORE_MEMORY = 64 << 20
# Everybody who adds to an outbox: audit publishes nothing.
_OUTBOXES = ("gateway", "router", "orchestrator", "memory", "tools")

# Said as an error because somebody must mend it: a bucket, a key or a realm that is not there any more.
_FOR_THE_OPERATOR = ("objects.refused", "vectors.refused", "directory.refused")

_LEFT = {
    "orchestrator": {
        "runs that have ended and are leased or to be woken": (
            "SELECT count(*) FROM run WHERE end_time IS NOT NULL AND (lease_owner IS NOT NULL OR wake_at IS NOT NULL)"
        ),
        "runs that have not ended": "SELECT count(*) FROM run WHERE end_time IS NULL",
        "approvals that wait, of runs that have ended": (
            "SELECT count(*) FROM approval JOIN run USING (run_id) WHERE approval.state = 'PENDING'"
            " AND run.end_time IS NOT NULL"
        ),
    },
    "router": {
        "reservations": "SELECT count(*) FROM reservation WHERE state <> 'expired'",
        "amounts reserved": "SELECT count(*) FROM budget_counter WHERE reserved <> 0",
        "effects under way": "SELECT count(*) FROM effect WHERE state = 'RUNNING'",
    },
    "tools": {"effects under way": "SELECT count(*) FROM effect WHERE state = 'RUNNING'"},
    "memory": {
        "documents that were put and are not indexed": (
            "SELECT count(*) FROM document_version WHERE state NOT IN ('READY', 'FAILED')"
        ),
        "versions that are to be deleted from the index": (
            "SELECT count(*) FROM vector_version v WHERE gone_time IS NULL"
            " AND NOT EXISTS (SELECT FROM document_version d WHERE d.version_id = v.version_id)"
        ),
    },
}
"""By service: what must come to nothing, and how it is counted."""


@dataclass(frozen=True)
class Size:
    """What a process has of the machine: files and connections that are open, bytes of memory that are its own."""

    pid: int
    files: int
    memory: int

    @classmethod
    def of(cls, process: psutil.Process) -> "Size":
        """Taken now."""
        return cls(process.pid, process.num_fds(), int(process.memory_full_info().uss))


class Aftermath:
    """Made before anything is done to the servers; `check` when all of it is over."""

    def __init__(self, outages: Outages) -> None:
        self._outages = outages
        self._logs = {log: log.stat().st_size for log in _logs(outages)}
        self._before = {name: self._size(name) for name in PROCESSES}

    def check(self) -> None:
        """Raises AssertionError that names what was left behind."""
        until(self._outages.well, _PATIENCE, "nobody misses anything any more")
        assert self._outages.alive()
        self._nothing_waits()
        self._books_balance()
        self._no_dead_letters()
        self._nothing_leaked()
        assert not (complaints := list(self._complaints())), "\n".join(complaints)

    def _nothing_waits(self) -> None:
        for service in _OUTBOXES:
            # Receipts are broadcasts, and may be lost: who got none publishes again, later each time. Not so long here.
            self._sql(service, "UPDATE outbox SET next_attempt_time = now()")
            until(lambda s=service: not self._sql(s, "SELECT count(*) FROM outbox"), _PATIENCE, f"{service}'s outbox")
        for service, left in _LEFT.items():
            for what, count in left.items():
                until(lambda s=service, c=count: not self._sql(s, c), _PATIENCE, f"no {what} at {service}")
        until(
            lambda: metric(self._outages.stack, "tools", "slipway_tools_sandbox_sessions") == 0,
            _PATIENCE,
            "no sandbox is held by a run that has ended",
        )

    def _books_balance(self) -> None:
        spent, cost = (
            "SELECT sum(spent) FROM budget_counter JOIN budget USING (budget_key) WHERE name = 'everything'",
            "SELECT sum(cost_usd) FROM model_usage, budget WHERE name = 'everything' AND end_time > budget.create_time",
        )
        until(
            lambda: self._sql("router", spent) == self._sql("router", cost) != 0,
            _PATIENCE,
            "what is spent of the budget is what its calls cost",
        )

    def _no_dead_letters(self) -> None:
        rabbit = cast(RabbitServer, self._outages.servers["bus"])
        vhost = self._outages.bus_url.rpartition("/")[2]
        listed = rabbit.control("list_queues", "-p", vhost, "name", "messages", "--no-table-headers")
        dead = [line for line in listed.splitlines() if ".dead" in line and line.split()[-1] != "0"]
        assert not dead, dead

    def _nothing_leaked(self) -> None:
        for name, before in self._before.items():
            until(
                lambda n=name, b=before: self._size(n).files <= b.files + _MORE_FILES,
                _PATIENCE,
                f"{name} closes what it opened: {before} before",
            )
            now = self._size(name)
            print(f"{name}: files {before.files} -> {now.files}, MiB {before.memory >> 20} -> {now.memory >> 20}")
            assert now.pid == before.pid, f"{name} was started again"
            assert now.memory < 1.5 * before.memory + _MORE_MEMORY, f"{name}: {before}, {now}"

    def _complaints(self) -> Iterator[str]:
        """What processes said that they did not expect: an outage is a warning, an error is somebody's mistake."""
        for log in _logs(self._outages):
            with log.open() as lines:
                lines.seek(self._logs.get(log, 0))
                for line in lines:
                    if _is_error(line):
                        yield f"{log.name}: {line[:3000]}"

    def _size(self, name: str) -> Size:
        process = running(self._outages.stack, name)
        assert process is not None, f"{name} is not running"
        return Size.of(process)

    def _sql(self, service: str, statement: str) -> Any:
        postgres = cast(PostgresServer, self._outages.servers["postgres"])

        async def ask() -> Any:
            connection: Any = await asyncpg.connect(postgres.url(f"slipway_{service}"))
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return asyncio.run(ask())


def _logs(outages: Outages) -> list[Path]:
    folder = outages.stack.data_dir / "logs"
    return [folder / f"{name}.log" for name in PROCESSES]


def _is_error(line: str) -> bool:
    try:
        said = json.loads(line)
        return said["level"] in ("error", "critical") and said["event"] not in _FOR_THE_OPERATOR
    except (ValueError, KeyError, TypeError):
        return bool(line.strip())  # what no logger wrote: a traceback, a warning of the interpreter
