"""The detectors fire: the same kinds of harm, done without a sandbox where that is safe, are all seen."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hostile_testing import host
from hostile_testing.host import Canaries, MemoryMeter, Watch
from hostile_testing.programs import PROGRAMS


@pytest.fixture
def watch(canaries: Canaries, tmp_path: Path) -> Watch:
    watch = Watch(canaries, os.getpid(), (canaries.folder, tmp_path))
    watch.begin()
    return watch


def unprotected(name: str, facts: str, folder: Path) -> str:
    """Run a program as an ordinary child; what it printed."""
    source = next(program for program in PROGRAMS if program.name == name).source(facts)
    command = [sys.executable, "-c", source]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder).stdout


@pytest.mark.parametrize(
    "name",
    [
        "a file of the host by its path",
        "a file of the host by steps up",
        "a file of the host by links",
        "the loopback address",
        "the host's own addresses",
        "a named socket of the host",
        "the host's shared memory",
        "classes walked to a shell",
        "native code by ctypes",
    ],
)
def test_a_secret_that_a_program_reads_is_seen(name: str, watch: Watch, facts: str, tmp_path: Path) -> None:
    assert "a secret of the host came back" in watch.damage(unprotected(name, facts, tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's keyring is another one")
def test_a_key_that_a_program_reads_is_seen(watch: Watch, facts: str, tmp_path: Path) -> None:
    returned = unprotected("the host's keys", facts, tmp_path)
    if "Operation not permitted" in returned or "not implemented" in returned:
        pytest.skip("this machine forbids keyrings")
    assert "a secret of the host came back" in watch.damage(returned)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("the loopback address", "tcp"),
        ("an abstract socket of the host", "abstract"),
        ("a named socket of the host", "unix"),
        ("data smuggled out by DNS", "udp"),
    ],
)
def test_a_listener_that_is_reached_is_seen(name: str, kind: str, watch: Watch, facts: str, tmp_path: Path) -> None:
    unprotected(name, facts, tmp_path)
    assert host.wait_until(lambda: f"a listener of the host was reached: {kind}" in watch.damage())


def test_a_file_that_is_changed_is_seen(canaries: Canaries, watch: Watch) -> None:
    for name in ("canary.txt", "private.txt", "writable.txt"):
        (canaries.folder / name).write_text("gone")
        assert f"a file of the host was changed: {name}" in watch.damage()
        (canaries.folder / name).write_text(canaries.token)
    assert watch.damage() == []


def test_a_file_that_is_left_is_seen(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "left").write_text("x")
    assert watch.damage() == [f"a file is left: {tmp_path / 'left'}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_the_sandboxes_user_is_seen_where_others_write_too(watch: Watch) -> None:
    left = Path(f"/tmp/left-by-{os.getpid()}")
    left.write_text("x")
    os.chown(left, 1_950_000_000, -1)
    try:
        assert watch.damage() == [f"a file is left: {left}"]
    finally:
        left.unlink()


def test_a_process_that_is_stopped_is_seen(canaries: Canaries, watch: Watch) -> None:
    process = psutil.Process(canaries.pid)
    process.suspend()
    try:
        assert host.wait_until(lambda: "a process of the host was stopped" in watch.damage())
    finally:
        process.resume()
    assert host.wait_until(lambda: watch.damage() == [])


def test_a_daemon_that_is_left_is_seen(tmp_path: Path) -> None:
    before = len(host.processes(os.getpid(), tmp_path))
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert len(host.processes(os.getpid(), tmp_path)) == before + 1
    finally:
        left.kill()
        left.wait()
    assert len(host.processes(os.getpid(), tmp_path)) == before


def test_memory_that_is_taken_is_seen() -> None:
    code = (
        "block = bytearray(90 << 20)\nfor at in range(0, len(block), 4096): block[at] = 1\n"
        "print('full', flush=True); input()"
    )
    with MemoryMeter(os.getpid()) as meter:
        taker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert taker.stdout
        assert taker.stdout.readline() == "full\n"
        assert host.wait_until(lambda: meter.peak > 90 << 20)
        taker.communicate("\n")


def test_another_name_of_the_host_is_seen(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "owned")
    assert watch.damage() == ["the host has another name"]


def test_a_mount_that_is_left_is_seen(watch: Watch, tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        assert "a mount is left" in watch.damage()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_mount_of_a_container_runtime_is_nobodys_damage(watch: Watch) -> None:
    place = Path(f"/run/containers-of-{os.getpid()}")
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True).returncode == 0
    try:
        assert watch.damage() == []
    finally:
        if mounted:
            subprocess.run(["umount", place], check=True)
        place.rmdir()
