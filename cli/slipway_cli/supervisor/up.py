"""`slipway up`: the stack from start to end."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from slipway_cli.supervisor.child import run_once
from slipway_cli.supervisor.data_dir import DataDir, StackState
from slipway_cli.supervisor.events import Events
from slipway_cli.supervisor.plan import Options, Plan, Tour, make_plan
from slipway_cli.supervisor.ports import LOOPBACK, free_ports, refuse_port_in_use
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.supervise import Supervisor

_LOG_LIMIT = 20 * 1024 * 1024


async def up(data_dir: Path, options: Options, *, console: Console) -> int:
    """Runs the stack until Ctrl-C (or SIGTERM) and answers with the exit status.

    With a tour its script is run against the ready stack; without a terminal the stack then ends with the tour's
    status. Raises StartRefusedError when the stack cannot start.
    """
    events = Events(console)
    directory = DataDir(data_dir)
    directory.acquire()
    try:
        for name in directory.end_leftovers():
            events.tell("note", name, "was left by a supervisor that crashed; ended")
        refuse_port_in_use(options.port)
        refuse_incomplete_config(options.config)
        for finding in await options.servers.refuse_unusable():
            events.tell("note", finding.subject, finding.text + (f": {finding.remedy}" if finding.remedy else ""))
        await _check_sandbox(directory, events)
        _turn_logs(directory)
        plan = await make_plan(directory, options)
        return await _Stack(directory, plan, events, console).run(options.tour)
    finally:
        directory.release()


async def _check_sandbox(directory: DataDir, events: Events) -> None:
    """Says which kernel setting is missing when tools cannot be sandboxed; their service then refuses to run code."""
    log = directory.logs / "sandbox-check.log"
    log.unlink(missing_ok=True)
    env = {**os.environ, "SLIPWAY_TOOLS_STATE_DIR": str(directory.path / "tools")}
    if await run_once([sys.executable, "-m", "slipway_tools.sandbox_check"], env=env, log=log) != 0:
        for line in log.read_text(errors="replace").strip().splitlines():
            events.tell("note", "sandbox", line)


def _turn_logs(directory: DataDir) -> None:
    for log in directory.logs.glob("*.log"):
        if log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))


class _Stack:
    def __init__(self, directory: DataDir, plan: Plan, events: Events, console: Console) -> None:
        self._directory = directory
        self._plan = plan
        self._events = events
        self._console = console
        self._supervisor = Supervisor(plan.processes, logs=directory.logs, events=events)
        self._state = StackState(os.getpid(), plan.url, plan.issuer, postgres=plan.postgres, redis=plan.redis)
        self._changed = asyncio.Event()

    async def run(self, tour: Tour | None) -> int:
        """From the first process to the last."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked_to_stop() -> None:
            if stop.is_set():
                self._events.tell("stop", "slipway", "asked twice: killing what still runs")
                self._supervisor.kill()
            stop.set()

        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(each, asked_to_stop)
        book = asyncio.create_task(self._keep_book())
        try:
            return await self._until(stop, self._serve(tour))
        finally:
            self._events.tell("stop", "slipway", "stopping everything")
            await self._supervisor.stop()
            book.cancel()
            self._events.tell("stop", "slipway", "stopped")

    async def _until(self, stop: asyncio.Event, serving: Coroutine[object, object, int]) -> int:
        work = asyncio.create_task(serving)
        stopping = asyncio.create_task(stop.wait())
        done, pending = await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return work.result() if work in done else 0

    async def _serve(self, tour: Tour | None) -> int:
        started = asyncio.get_running_loop().time()
        await self._supervisor.start(self._changed)
        self._state.ready = True
        self._save()
        seconds = asyncio.get_running_loop().time() - started
        self._events.tell("ready", "slipway", f"{self._plan.url} ({seconds:.1f} s), data in {self._directory.path}")
        if tour is None:
            self._tell_how_to_go_on()
            await self._supervisor.failed()
            return 1
        keeping = asyncio.create_task(self._supervisor.failed())
        touring = asyncio.create_task(self._tour(tour))
        try:
            await asyncio.wait([keeping, touring], return_when=asyncio.FIRST_COMPLETED)
            if not touring.done():
                keeping.result()
            status = touring.result()
            if status == 0 and sys.stdout.isatty():
                self._tell_how_to_go_on()
                await keeping
            return status
        finally:
            for task in (keeping, touring):
                task.cancel()

    async def _tour(self, tour: Tour) -> int:
        """Runs the tour with the terminal as it is."""
        env = {
            **os.environ,
            "SLIPWAY_DATA_DIR": str(self._directory.path),
            "SLIPWAY_LEDGER_PORT": str(tour.ledger_port),
        }
        process = await asyncio.create_subprocess_exec(sys.executable, tour.script, env=env)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    def _tell_how_to_go_on(self) -> None:
        self._console.print(
            f"\n  HTTP API   {self._plan.url}/docs\n"
            f"  issuer     {self._plan.issuer}\n"
            "  a token    slipway token --as alice\n"
            "  end        Ctrl-C\n",
            highlight=False,
        )

    async def _keep_book(self) -> None:
        """Writes the state file anew whenever a process comes or goes."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._save()

    def _save(self) -> None:
        self._state.processes = self._supervisor.records()
        self._directory.save(self._state)


def default_config() -> Path:
    """The folder with policies, realm and catalogue that belongs to this checkout.

    Raises StartRefusedError when the package stands alone.
    """
    folder = Path(__file__).resolve().parents[3] / "k8s"
    if not (folder / "policies").is_dir():
        raise StartRefusedError(
            f"{folder} holds no policies: run from a checkout, or name a folder with policies/, realm/ and catalogue/ "
            "by --config"
        )
    return folder


def refuse_incomplete_config(folder: Path) -> None:
    """Raises StartRefusedError when the configuration's folder lacks something, before anything is started on it."""
    for part in ("policies", "realm", "catalogue"):
        if not (folder / part).is_dir():
            raise StartRefusedError(
                f"{folder} holds no {part}/: name a folder with policies/, realm/ and catalogue/ by --config"
            )


def with_tour(options: Options) -> Options:
    """The options, with the example's tour and leave for its tool to call the ledger on this machine."""
    (port,) = free_ports(1)
    script = Path(__file__).resolve().parents[3] / "examples" / "refund-desk" / "tour.py"
    return replace(options, tour=Tour(script, port), allow_http=(*options.allow_http, f"{LOOPBACK}:{port}"))
