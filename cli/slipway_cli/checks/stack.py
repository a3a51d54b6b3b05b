"""A running stack, and the databases of one."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx

from slipway_cli.checks.finding import Finding
from slipway_cli.checks.identity import skew
from slipway_cli.checks.machine import ask
from slipway_cli.supervisor.data_dir import SERVICES, DataDir, StackState
from slipway_cli.supervisor.postgres import PostgresServer

_SECONDS = 10
_MOST_USED = 0.8  # of PostgreSQL's connections
_CONNECTIONS = (
    "SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity WHERE datname IS NOT NULL"
)
_WORST_SKEW = 5.0  # leases and schedules go by PostgreSQL's clock, in seconds


async def check_gateway(url: str) -> list[Finding]:
    """Is the gateway ready, and what does it miss?"""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_SECONDS) as web:
            answer = await web.get(f"{url.rstrip('/')}/readyz")
    except (httpx.HTTPError, OSError) as error:
        reason = str(error) or f"no answer in {_SECONDS} s"
        return [Finding("fail", "gateway", f"{url} cannot be reached ({reason})", "look at its log")]
    clock = skew("gateway", answer.headers.get("date", ""))
    if answer.status_code == 200:
        degraded = _degraded(answer)
        if degraded:
            remedy = "start what it names, docs/faults.md says what goes on without"
            return [Finding("warn", "gateway", f"{url} works on without {degraded}", remedy), *clock]
        return [Finding("ok", "gateway", f"{url} is ready"), *clock]
    return [
        Finding("fail", "gateway", f"{url} is not ready: {answer.text.strip()[:500]}", "start what it names"),
        *clock,
    ]


def _degraded(answer: httpx.Response) -> str:
    """What the gateway does without, by name."""
    try:
        return ", ".join(answer.json().get("degraded", []))
    except (ValueError, TypeError, AttributeError):
        return ""


def check_processes(state: StackState) -> list[Finding]:
    """Do the processes of the stack live?"""
    import psutil

    dead = [record.name for record in state.processes if not psutil.pid_exists(record.pid)]
    if dead:
        return [
            Finding("warn", "processes", f"not running now: {', '.join(dead)}", "they are restarted; see their logs")
        ]
    return [Finding("ok", "processes", f"{len(state.processes)} run under the supervisor {state.pid}")]


async def check_issuer(issuer: str) -> list[Finding]:
    """Does the issuer of the running stack answer, and at the same time as here?"""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_SECONDS) as web:
            answer = await web.get(f"{issuer}/.well-known/openid-configuration")
            answer.raise_for_status()
    except (httpx.HTTPError, OSError) as error:
        return [
            Finding("fail", "issuer", f"{issuer} does not answer ({error})", "start it; nobody can sign in without it")
        ]
    return skew("issuer", answer.headers.get("date", "")) or [Finding("ok", "issuer", f"{issuer} answers")]


async def check_databases(address: str, data_dir: Path) -> list[Finding]:
    """Sign in as each service, compare clocks, and look whether migrations are missing; changes nothing."""
    server, secrets = PostgresServer.at(address), DataDir(data_dir).secrets()
    urls = {service: server.database_url(service, secrets) for service in SERVICES}
    try:
        connection = await asyncpg.connect(urls["orchestrator"], timeout=_SECONDS)
    except (
        asyncpg.InvalidPasswordError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InvalidAuthorizationSpecificationError,
    ):
        text = "has no databases for the secrets of this data directory"
        return [Finding("warn", "databases", f"PostgreSQL {text}", "`slipway up` makes them")]
    except Exception as error:  # noqa: BLE001 # whatever keeps us out is told
        return [Finding("fail", "databases", f"PostgreSQL takes no connection ({error})", "start it")]
    try:
        before = time.time()
        clock = await connection.fetchval("SELECT clock_timestamp()")
        after = time.time()
        used, most = await connection.fetchrow(_CONNECTIONS)
    finally:
        await connection.close()
    found = [*_clock(clock, before, after), *_connections(used, most)]
    asked = (
        ask(f"slipway_{service}.migrate", "--check", env={f"SLIPWAY_{service.upper()}_DATABASE_URL": url})
        for service, url in urls.items()
    )
    for service, (well, said) in zip(urls, await asyncio.gather(*asked), strict=True):
        if not well:
            found.append(Finding("fail", "migrations", said or service, "start this release's services once"))
    if not any(finding.subject == "migrations" for finding in found):
        found.append(Finding("ok", "migrations", f"{len(urls)} databases are at this release's"))
    return found


def _connections(used: int, most: int) -> list[Finding]:
    if used < most * _MOST_USED:
        return []
    remedy = "raise max_connections, or put a pooler in front (docs/sizing.md)"
    return [Finding("warn", "databases", f"{used} of PostgreSQL's {most} connections are in use", remedy)]


def _clock(clock: datetime, before: float, after: float) -> list[Finding]:
    there = clock.astimezone(UTC).timestamp()
    seconds = max(before - there, there - after, 0.0)
    if seconds > _WORST_SKEW:
        return [
            Finding(
                "fail",
                "clock",
                f"PostgreSQL's differs from this machine's by {seconds:.0f} s",
                "synchronise both (chrony, systemd-timesyncd)",
            )
        ]
    return [Finding("ok", "clock", "PostgreSQL's and this machine's agree")]
