"""Processes that are forked from an imported program are processes like any other."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from slipway_testkit.warm import WarmProgram, warm_program

PROGRAM = """
import os, sys, time

def main(arguments):
    print(os.getpid(), os.getppid(), *arguments, os.environ.get("COLOUR"), os.environ.get("PATH"), flush=True)
    match arguments[0]:
        case "said": sys.exit("no such file")
        case "status": sys.exit(3)
        case "fails": raise ValueError("broken")
        case "lives": time.sleep(1000)
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmProgram]:
    (tmp_path / "warm_test_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with warm_program("warm_test_program") as program:
        yield program


async def test_a_process_has_its_arguments_environment_output_and_status(program: WarmProgram) -> None:
    expected = {"said": (1, "no such file"), "status": (3, ""), "fails": (1, "ValueError: broken"), "ends": (0, "")}
    started = {kind: await program.start(kind, environment={"COLOUR": kind}) for kind in expected}
    parents: set[str] = set()
    for kind, process in started.items():
        said = (await process.stdout.read()).decode()
        pid, parent, *words = said.splitlines()[0].split()
        assert (int(pid), words) == (process.pid, [kind, kind, "None"])
        assert (await process.wait(), process.returncode) == (expected[kind][0], expected[kind][0])
        assert expected[kind][1] in said
        parents.add(parent)
    assert len(parents) == 1
    assert parents != {str(os.getpid())}


async def test_a_process_is_killed_as_any_other(program: WarmProgram) -> None:
    process = await program.start("lives", environment={})
    await process.stdout.readline()
    assert process.returncode is None
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL


def test_a_process_can_be_waited_for_in_threads(program: WarmProgram) -> None:
    process = program.popen("lives", environment={"COLOUR": "red"})
    pid, _, *words = process.stdout.readline().split()
    assert (int(pid), words, process.poll()) == (process.pid, ["lives", "red", "None"], None)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.terminate()
    assert process.wait(30) == -signal.SIGTERM
    process.kill()  # nothing happens
    assert (process.poll(), process.wait(), process.stdout.read()) == (-signal.SIGTERM, -signal.SIGTERM, "")
    process.stdout.close()


def test_a_command_answers_with_its_status_output_and_errors(program: WarmProgram) -> None:
    done = program.run("said", environment={"COLOUR": "blue"})
    assert (done.returncode, done.stderr) == (1, "no such file\n")
    assert done.stdout.split()[2:] == ["said", "blue", "None"]
    with pytest.raises(subprocess.TimeoutExpired):
        program.run("lives", environment={}, timeout=0.2)


async def test_processes_end_with_their_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually) -> None:
    (tmp_path / "warm_test_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with warm_program("warm_test_program") as program:
        process = await program.start("lives", environment={})
        await process.stdout.readline()
    assert await process.wait() == -signal.SIGKILL
    await eventually(lambda: not psutil.pid_exists(process.pid))
