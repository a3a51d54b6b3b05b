"""Starting and ending the stack."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from slipway_client import ApiError, Client
from slipway_testkit.stack import SLIPWAY, Stack

StartStack = Callable[..., Stack]


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Every process that has something of a data directory in its command line or environment."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != os.getpid() and any(str(data_dir) in word for word in words):
            found.append(process)
    return found


@pytest.mark.timeout(300)
def test_what_a_stack_knows_is_there_after_a_restart_and_no_process_stays_behind(
    start_stack: StartStack, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    first = start_stack(data_dir).ready()
    document = tmp_path / "note.txt"
    document.write_text("The office cat is called Ferdinand and sleeps on the printer.")
    with first.as_user("alice") as alice:
        alice.knowledge.put_collection("notes")
        alice.knowledge.put_document("notes", "note.txt", document)
        until(lambda: alice.knowledge.get_document("notes", "note.txt").state == "READY")
    assert first.stop() == 0
    assert not processes_of(data_dir)

    second = start_stack(data_dir).ready()
    with second.as_user("alice") as alice:
        (passage, *_) = alice.knowledge.search("notes", "what is the cat's name?")
    assert "Ferdinand" in passage.text
    second.process.kill()
    second.process.wait()
    until(lambda: not processes_of(data_dir))

    third = start_stack(data_dir).ready()
    assert third.stop() == 0


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refused(*arguments: str) -> str:
    done = subprocess.run([SLIPWAY, "up", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        said = refused("--data-dir", str(tmp_path / "data"), "--port", port)
    assert f"port {port} is in use" in said
    assert "--port" in said


def test_a_data_directory_in_use_is_refused(stack: Stack) -> None:
    said = refused("--data-dir", str(stack.data_dir), "--port", "1")
    assert f"in use by process {stack.process.pid}" in said


def test_a_service_that_is_killed_comes_back(stack: Stack) -> None:
    heard = len(stack.lines)
    os.kill(stack.pid("tools"), signal.SIGKILL)
    stack.wait_for(r"exit\s+tools\s+ended with signal SIGKILL", start=heard)
    stack.wait_for(r"ready\s+tools", start=heard)
    with stack.as_user("alice") as alice:
        # Its callers find it again within a second.
        until(lambda: _answer(alice) == "42", seconds=10)


def _answer(client: Client) -> str | None:
    try:
        return client.tools.invoke("python", {"code": "print(6 * 7)"}).stdout.strip()
    except ApiError as error:
        if error.status != 503:
            raise
        return None
