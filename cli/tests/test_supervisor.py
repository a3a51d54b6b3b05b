"""The supervisor over real processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from slipway_cli.supervisor.data_dir import DataDir, ProcessRecord, StackState, read_state
from slipway_cli.supervisor.events import Events
from slipway_cli.supervisor.ports import free_ports, refuse_port_in_use
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.spec import ProcessSpec
from slipway_cli.supervisor.supervise import Supervisor
from slipway_cli.supervisor.up import refuse_incomplete_config

SERVER = """
import socketserver, sys
class Handler(socketserver.BaseRequestHandler):
    def handle(self): pass
socketserver.TCPServer.allow_reuse_address = True
socketserver.TCPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def connects(port: int) -> Callable[[], Awaitable[None]]:
    async def probe() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    return probe


def server(name: str, port: int, after: tuple[str, ...] = (), program: str = SERVER) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-S", "-c", program, str(port)),
        env=dict(os.environ),
        ready=connects(port),
        after=after,
        ready_within=20,
    )


def supervisor(logs: Path, *specs: ProcessSpec) -> Supervisor:
    with Path(os.devnull).open("w") as nowhere:
        return Supervisor(specs, logs=logs, events=_Silent(nowhere))


class _Silent(Events):
    def __init__(self, file: object) -> None:
        super().__init__(Console(quiet=True))
        self.told: list[tuple[str, str]] = []

    def tell(self, kind: str, who: str, text: str) -> None:
        self.told.append((kind, who))


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 # a process table has no event
            await asyncio.sleep(0.02)


async def test_a_process_starts_only_when_what_it_needs_is_ready(tmp_path: Path) -> None:
    events = _Silent(None)
    first, second = free_ports(2)
    keeper = Supervisor(
        [server("second", second, after=("first",)), server("first", first)], logs=tmp_path, events=events
    )
    await keeper.start(asyncio.Event())
    await keeper.stop()
    assert events.told.index(("ready", "first")) < events.told.index(("start", "second"))


async def test_a_process_that_is_killed_is_started_again(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    keeper = supervisor(tmp_path, server("server", port))
    await keeper.start(asyncio.Event())
    (before,) = keeper.records()
    os.kill(before.pid, signal.SIGKILL)
    await until(lambda: any(record.pid != before.pid for record in keeper.records()))
    await until(lambda: _open(port))
    await keeper.stop()
    assert not _open(port)


async def test_what_a_dead_process_had_started_dies_with_it(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    child = tmp_path / "child"
    program = f"""
import subprocess, sys
p = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(child)!r}, "w").write(str(p.pid))
{SERVER}"""
    keeper = supervisor(tmp_path, server("server", port, program=program))
    await keeper.start(asyncio.Event())
    grandchild = int(child.read_text())
    os.kill(keeper.records()[0].pid, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie")
    await keeper.stop()


async def test_a_process_that_never_starts_ends_the_start_with_its_own_words(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    broken = server("broken", port, program="raise SystemExit('the flux capacitor is missing')")
    keeper = supervisor(tmp_path, broken)
    with pytest.raises(StartRefusedError, match=r"(?s)broken does not start.*flux capacitor"):
        await keeper.start(asyncio.Event())
    await keeper.stop()


async def test_a_process_that_ignores_the_stop_signal_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway_cli.supervisor.supervise._STOP_SECONDS", 0.3)
    (port,) = free_ports(1)
    keeper = supervisor(tmp_path, server("deaf", port, program="import signal; signal.signal(15, 1)\n" + SERVER))
    await keeper.start(asyncio.Event())
    (record,) = keeper.records()
    await keeper.stop()
    assert not psutil.pid_exists(record.pid)


def test_no_child_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    script = tmp_path / "keeper.py"
    script.write_text(
        textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_supervisor import server, supervisor
        async def main():
            keeper = supervisor(Path({str(tmp_path)!r}), server("server", {port}))
            await keeper.start(asyncio.Event())
            print(keeper.records()[0].pid, flush=True)
            await asyncio.sleep(600)
        asyncio.run(main())
        """)
    )
    keeper = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert keeper.stdout is not None
    child = psutil.Process(int(keeper.stdout.readline()))
    keeper.kill()
    keeper.wait()
    keeper.stdout.close()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_second_stack_in_the_same_data_directory_is_refused(tmp_path: Path) -> None:
    first = DataDir(tmp_path / "data")
    first.acquire()
    first.save(StackState(os.getpid(), "http://127.0.0.1:1", "http://127.0.0.1:2"))
    with pytest.raises(StartRefusedError, match=f"in use by process {os.getpid()}"):
        DataDir(tmp_path / "data").acquire()
    first.release()
    second = DataDir(tmp_path / "data")
    second.acquire()
    second.release()


def test_a_data_directory_that_cannot_be_written_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartRefusedError, match=r"cannot be written.*--data-dir"):
        DataDir(tmp_path / "file" / "data").acquire()


def test_secrets_are_made_once_and_read_by_their_owner_alone(tmp_path: Path) -> None:
    directory = DataDir(tmp_path / "data")
    directory.acquire()
    made = directory.secrets()
    assert directory.secrets() == made
    assert (tmp_path / "data" / "secrets.json").stat().st_mode & 0o777 == 0o600
    directory.release()


def test_what_a_crashed_supervisor_left_behind_is_ended_and_nothing_else(tmp_path: Path) -> None:
    directory = DataDir(tmp_path)
    directory.acquire()
    left, innocent = (subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2))
    state = StackState(2**22 + 1, "http://127.0.0.1:1", "http://127.0.0.1:2")
    state.processes = [
        ProcessRecord("left", left.pid, psutil.Process(left.pid).create_time()),
        # Its pid belongs to somebody else by now: it started at another time than the record says.
        ProcessRecord("gone", innocent.pid, psutil.Process(innocent.pid).create_time() - 3600),
    ]
    directory.save(state)
    assert read_state(tmp_path) is None
    assert directory.end_leftovers() == ["left"]
    left.wait(10)
    alive = innocent.poll() is None
    innocent.kill()
    innocent.wait()
    assert alive
    directory.release()


def test_a_port_in_use_is_refused_with_what_to_do() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(StartRefusedError, match=f"port {port} is in use.*--port"):
            refuse_port_in_use(port)


def test_a_configuration_folder_that_lacks_a_part_is_refused_by_its_name(tmp_path: Path) -> None:
    for part in ("policies", "realm"):
        (tmp_path / part).mkdir()
    with pytest.raises(StartRefusedError, match="holds no catalogue/"):
        refuse_incomplete_config(tmp_path)


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
