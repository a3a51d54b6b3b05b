"""The service under load, and killed while it works: nothing goes wrong, and nothing is left on the machine."""

import asyncio
import ctypes
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hostile_testing.host import control_groups, mounts, wait_until
from hostile_testing.programs import PRELUDE
from hostile_testing.service import Client, Service
from slipway_chassis.channel import connect
from slipway_chassis.errors import SlipwayError

CALLS = 500


def temporary(service: Service) -> list[str]:
    """Folders for sandboxes and doors that a process of the service made outside of its own."""
    return [path.name for path in Path("/tmp").glob(f"slipway-*-{service.pid}-*")]


@pytest.mark.timeout(600)
async def test_five_hundred_calls_at_once_are_all_served(alice: Client, attacked: Service, sandbox: str) -> None:
    number = CALLS if sandbox == "nsjail" else 40
    async with connect(attacked.target) as channel:
        calls = [alice.on(channel, f"print({n} * 2)", timeout=550, timeout_seconds=60) for n in range(number)]
        answers: list[Any] = await asyncio.gather(*calls)
    unserved = [answer for n, answer in enumerate(answers) if answer.stdout != f"{n * 2}\n"]
    assert not unserved, unserved[:3]
    assert wait_until(lambda: not attacked.programs())


async def test_calls_of_which_many_are_hostile_do_not_harm_each_other(alice: Client, attacked: Service) -> None:
    bad = [
        "while True: pass",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "held = []\nwhile True: held.append(bytearray(1 << 20))",
        "import os\nwhile True: os.write(1, b'x' * 65536)",
        "import os, signal\nos.kill(os.getppid(), 9)\nos._exit(3)",
    ]
    async with connect(attacked.target) as channel:
        hostile = [alice.on(channel, code, timeout_seconds=1) for code in bad]
        good = [alice.on(channel, f"print({n})", timeout_seconds=60) for n in range(10)]
        answers: list[Any] = await asyncio.gather(*hostile, *good)
    assert [answer.stdout for answer in answers[len(bad) :]] == [f"{n}\n" for n in range(10)]
    assert all(answer.error.code for answer in answers[: len(bad)])


WATCHER = """
import select
instances = []
def watched():
    while len(instances) < 200: instances.append(syscall(294, 0))
attempt(watched)
def add(path):
    instances or instances.append(syscall(294, 0))
    return syscall(254, instances[0], path, 0xfff)
for path in (b'/dev/null', b'/dev/urandom', b'/usr/lib', b'/usr/bin/python3', json.__file__.encode()):
    attempt(lambda: add(path))
print('ready', flush=True)
stdin = sys.stdin.read()
deadline = time.monotonic() + 4
seen = 0
while instances and time.monotonic() < deadline:
    if select.select(instances[:1], [], [], 0.2)[0]: seen += len(os.read(instances[0], 65536))
print('SEEN', seen)
time.sleep(0 if instances else 2)
"""


async def test_a_program_sees_nobody_elses_files_opened_and_takes_none_of_the_hosts_watches(
    alice: Client, attacked: Service, signing: Any, facts: str, sandbox: str
) -> None:
    source = PRELUDE.format(facts=facts) + WATCHER
    watcher = asyncio.create_task(alice.run(source, timeout_seconds=30))
    assert await asyncio.to_thread(wait_until, lambda: bool(attacked.programs()))
    refused = 0
    gina = Client(attacked.target, signing.token(subject="gina", tenant="globex"))
    while not watcher.done():
        for device in ("/dev/null", "/dev/urandom"):
            os.close(os.open(device, os.O_RDONLY))
        watch = ctypes.CDLL(None).inotify_init1(0)
        refused += watch < 0
        if watch >= 0:
            os.close(watch)
        await gina.run("import colorsys, json.tool")
    answer = await watcher
    assert "SEEN 0" in answer.stdout, answer
    assert not refused


async def test_a_call_that_is_cancelled_leaves_nothing(alice: Client, attacked: Service) -> None:
    spawn = "import os, time\nfor _ in range(3):\n    if os.fork() == 0: os.setsid()\ntime.sleep(1000)"
    call = asyncio.create_task(alice.run(spawn, timeout_seconds=100))
    assert await asyncio.to_thread(wait_until, lambda: bool(attacked.programs()))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await asyncio.to_thread(wait_until, lambda: not attacked.programs())


async def test_a_service_killed_in_the_middle_of_calls_leaves_nothing_after_its_restart(
    start: Any, signing: Any, sandbox: str
) -> None:
    # A pod that is just being made ends by itself too, but later than this test waits.
    first: Service = start(SANDBOX_WARM="0" if sandbox == "kubernetes" else "2")
    before = mounts(os.getpid(), first.state)
    alice = Client(first.target, signing.token())
    program = "import os, time\nif os.fork() == 0: os.setsid()\nopen('f', 'w').write('x' * 100000)\ntime.sleep(1000)"
    calls = [
        asyncio.create_task(alice.run(program, timeout_seconds=100)),
        asyncio.create_task(alice.run(program, timeout_seconds=100, session="held")),
    ]
    # Both programs and what they forked run: under gVisor it is its own processes that are seen.
    assert await asyncio.to_thread(wait_until, lambda: first.runs(2))
    groups = control_groups(first.pid)
    first.stop(signal.SIGKILL)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, SlipwayError) for outcome in outcomes)
    # The kernel ends what is in the sandboxes; the next process clears up what no kernel does.
    assert await asyncio.to_thread(wait_until, lambda: not first.programs())
    second: Service = start(DATABASE_URL=first.environment["SLIPWAY_TOOLS_DATABASE_URL"])
    assert not [folder for folder in groups if folder.exists()]
    assert temporary(first) == []
    assert await asyncio.to_thread(wait_until, lambda: not first.pods_left())
    assert mounts(os.getpid(), first.state) == before
    assert (await Client(second.target, signing.token()).run("print('again')")).stdout == "again\n"
    second.stop()
    assert control_groups(second.pid) == []
    assert temporary(second) == []
