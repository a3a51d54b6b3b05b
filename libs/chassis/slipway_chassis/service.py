"""The life of a service process: start, serve, report health, drain, stop."""

import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from prometheus_client import Counter

from slipway_chassis import telemetry
from slipway_chassis.channel import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from slipway_chassis.interceptors import ServerInterceptor
from slipway_chassis.link_server import LinkServer
from slipway_chassis.logs import get_logger
from slipway_chassis.ops_http import OpsServer
from slipway_chassis.readiness import Readiness
from slipway_chassis.settings import CoreSettings
from slipway_chassis.tls import ServiceTls
from slipway_chassis.tokens import CallerTokenVerifier
from slipway_chassis.unusable import SettingUnusable

_log = get_logger(__name__)
_restarts = Counter(
    "slipway_background_restarts",
    "Background tasks that failed and were restarted",
    ["task"],
    registry=telemetry.registry,
)

Background = Callable[[], Awaitable[None]]
Register = Callable[[grpc.aio.Server], Sequence[str]]

_SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # Clients keep idle connections alive every 30 s, more often than gRPC puts up with by itself.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A second process on the same port would silently take half of the calls.
    ("grpc.so_reuseport", 0),
    # Clients look names up again when a connection ends: so they find servers that were added.
    ("grpc.max_connection_age_ms", 60_000),
]
_CHECK_EVERY = 5.0  # seconds between readiness checks
_COLLECT_AFTER = 10_000  # objects, net of those freed, before the garbage collector looks at the young ones
_CANCEL_AGAIN = 6.0  # seconds; longer than a worker takes to hand its runs over
_BACKOFF_FIRST, _BACKOFF_MOST = 0.5, 30.0
_STEADY = 60.0  # seconds after which a background task counts as healthy again


async def run_service(
    name: str,
    settings: CoreSettings,
    *,
    servicers: Register,
    background: Mapping[str, Background] | None = None,
    readiness: Readiness,
    public_methods: frozenset[str] = frozenset(),
    on_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    ``servicers`` adds its servicers to the server and answers with their full names. ``background`` coroutines run
    beside it: one that fails is logged, counted and started again with back-off. Health and /readyz follow
    ``readiness``. ``public_methods`` need no caller token. ``on_stop`` is last.

    Logs ``service.started`` with the bound ports, then ``service.ready`` when nothing that is needed is missing for the
    first time. With the settings' certificates gRPC and links take callers over mutual TLS only; the operations port
    has none. At the signal: health says NOT_SERVING, new calls are refused, calls in flight get ``shutdown_grace``
    seconds, background tasks are cancelled. Raises OSError if an address cannot be bound.
    """
    telemetry.setup(name, settings.otlp_endpoint, settings.log_level)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    verifier = CallerTokenVerifier(settings.caller_jwks_file)
    tls = settings.tls
    interceptor = ServerInterceptor(verifier, public_methods, settings.tls_callers)
    server = grpc.aio.server(interceptors=[interceptor], options=_SERVER_OPTIONS)
    links = LinkServer(interceptor.unary, tls)
    health = _Health(servicers(links.serving(server)), readiness)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    ports = {"grpc": _bind(server, settings.grpc_listen, tls)}
    ports["links"] = await links.start(settings.link_listen)
    ops = OpsServer(lambda: health.missing, lambda: readiness.degraded)
    ops_host, _, ops_port = settings.metrics_listen.rpartition(":")
    ports["metrics"] = await ops.start(ops_host.strip("[]"), int(ops_port))
    await server.start()
    # What was loaded until now stays: the collector need not look through it, in pauses of tens of milliseconds, again.
    gc.collect()
    gc.freeze()
    # Most objects of a request are gone by themselves when it ends: who looks later looks through fewer.
    gc.set_threshold(_COLLECT_AFTER, 10, 10)
    _log.info("service.started", **ports)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_keep_running(task, run)) for task, run in (background or {}).items()]
            watch = group.create_task(health.watch(lambda: _log.info("service.ready", **ports)))
            await stopping.wait()
            _log.info("service.stopping")
            # No check that passes may say "ready" again.
            watch.cancel()
            await health.stop()
            await asyncio.gather(server.stop(settings.shutdown_grace), links.stop(settings.shutdown_grace))
            await _cancel_all(tasks)
    finally:
        await server.stop(None)
        await links.stop(0)
        await ops.close()
        if on_stop is not None:
            await on_stop()
        telemetry.shutdown()
    _log.info("service.stopped")


async def _cancel_all(tasks: Sequence["asyncio.Task[None]"]) -> None:
    """Cancel tasks until they have ended: a library below may lose a cancellation that comes with an answer."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a service's main coroutine on uvloop: the entry point of every ``main.py``.

    What cannot be used ends the process with a sentence, and exit code 2.
    """
    import uvloop

    try:
        uvloop.run(main)
    except SettingUnusable as error:
        sys.stderr.write(f"slipway: {error}\n")
        sys.exit(2)


def work_undisturbed() -> None:
    """Let no process that wakes up interrupt this one in the middle of a request: the kernel's batch scheduling.

    For processes with a thousand requests a second whose peers may share their core: a tenth less processor time
    each. Processes that this one starts inherit it. Where the system forbids it, nothing changes.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _bind(server: grpc.aio.Server, address: str, tls: ServiceTls | None) -> int:
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.server_credentials())
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    return port


async def _keep_running(name: str, run: Background) -> None:
    delay = _BACKOFF_FIRST
    while True:
        started = time.monotonic()
        try:
            await run()
        except Exception as error:  # noqa: BLE001 - whatever it was, the task is needed
            _restarts.labels(name).inc()
            if time.monotonic() - started > _STEADY:
                delay = _BACKOFF_FIRST
            _log.error("background.failed", task=name, retry_in=round(delay, 1), exc_info=error)
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            delay = min(delay * 2, _BACKOFF_MOST)
        else:
            _log.info("background.ended", task=name)
            return


class _Health:
    """Has the readiness looked at again and again, and tells the gRPC health service."""

    def __init__(self, services: Sequence[str], readiness: Readiness) -> None:
        self.servicer = health_aio.HealthServicer()
        self._services = ("", *services)
        self._readiness = readiness
        self._serving: bool | None = None
        self._instead: dict[str, str] = {"service": "starting"}

    @property
    def missing(self) -> dict[str, str]:
        """Why the process is not ready, by name; empty: it is."""
        return self._instead or self._readiness.missing

    async def watch(self, on_ready: Callable[[], None]) -> None:
        """Look for ever; calls ``on_ready`` when nothing is missing for the first time."""
        announced = False
        while True:
            await self._readiness.look()
            self._instead = {}
            missing = self._readiness.missing
            await self._tell(not missing)
            if not missing and not announced:
                announced = True
                on_ready()
            # Until everything is there for the first time, starting up waits for this loop.
            await asyncio.sleep(_CHECK_EVERY if announced else 0.5)

    async def stop(self) -> None:
        """Say NOT_SERVING from now on."""
        self._instead = {"service": "stopping"}
        await self.servicer.enter_graceful_shutdown()

    async def _tell(self, serving: bool) -> None:
        if serving == self._serving:
            return
        self._serving = serving
        answer = health_pb2.HealthCheckResponse
        for service in self._services:
            await self.servicer.set(service, answer.SERVING if serving else answer.NOT_SERVING)
