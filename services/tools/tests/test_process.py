"""The life of the process: killed, stopped, started on a machine that forbids sandboxes."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest
from slipway.tools.v1 import tools_pb2
from slipway_chassis.errors import ErrorKind, SlipwayError


def forbids(kind: str = "user") -> str:
    """The start of a shell command that runs its rest where the kernel makes no namespaces of a kind."""
    return f"exec {sys.executable} {Path(__file__).with_name('forbid_namespaces.py')} {kind}"


@pytest.fixture
def state() -> Any:
    """A folder for a service's sandboxes, which tells them from those of others; none may be left in the end."""
    folder = Path(tempfile.mkdtemp(prefix="slipway-state-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    assert sandboxes(folder) == []
    shutil.rmtree(folder)


def sandboxes(state: Path) -> list[str]:
    """Names of the processes of sandboxes whose root lies in `state`, waiting launchers among them."""
    found: list[str] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mounts = Path(f"/proc/{process.pid}/mountinfo").read_text()
            if f"{state}/sandbox-python" in f"{process.cmdline()}{mounts}":
                found.append(process.name())
    return found


def program_runs(state: Path) -> bool:
    return "python3" in sandboxes(state)


def groups(pid: int) -> list[Path]:
    """Control groups that the process `pid` made, in the groups of this one."""
    own = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    folders = [Path(f"/sys/fs/cgroup/{names}{path}/slipway-tools-{pid}") for _, names, path in own]
    return [folder for folder in folders if folder.exists()]


async def test_a_killed_service_takes_its_programs_with_it_and_the_next_one_clears_up(
    start_tools: Any, client: Any, eventually: Any, state: Path
) -> None:
    tools = start_tools(STATE_DIR=str(state))
    call = asyncio.create_task(client(tools.target).python("import time; time.sleep(100)", timeout_seconds=100))
    await eventually(lambda: program_runs(state), timeout=30)
    pid = tools.process.pid
    tools.stop(signal.SIGKILL)
    await asyncio.gather(call, return_exceptions=True)
    await eventually(lambda: not sandboxes(state))
    again = start_tools(STATE_DIR=str(state), DATABASE_URL=tools.environment["SLIPWAY_TOOLS_DATABASE_URL"])
    assert groups(pid) == []
    own = again.process.pid
    assert again.stop() == 0
    assert groups(own) == []


async def test_a_stopping_service_lets_calls_end_and_exits_clean(
    start_tools: Any, client: Any, eventually: Any, state: Path
) -> None:
    tools = start_tools(STATE_DIR=str(state), SHUTDOWN_GRACE="20")
    call = asyncio.create_task(client(tools.target).python("import time; time.sleep(2); print('done')"))
    await eventually(lambda: program_runs(state), timeout=30)
    status = asyncio.create_task(asyncio.to_thread(tools.stop))
    assert (await call).stdout == "done\n"
    assert await status == 0
    assert groups(tools.process.pid) == []
    for folder in ("/tmp", "/run/user"):
        assert [name for name in os.listdir(folder) if name.startswith(f"nsjail.{os.getuid()}.")] == []


async def test_a_caller_that_gives_up_ends_its_program(
    start_tools: Any, client: Any, eventually: Any, state: Path
) -> None:
    tools = start_tools(STATE_DIR=str(state))
    request = tools_pb2.InvokeToolRequest(
        tool="python", arguments_json='{"code": "import time; time.sleep(100)", "timeout_seconds": 100}'
    )
    with pytest.raises(SlipwayError) as late:
        await client(tools.target).call("InvokeTool", request, timeout=2)
    assert late.value.kind is ErrorKind.DEADLINE_EXCEEDED
    await eventually(lambda: not program_runs(state))
    assert (await client(tools.target).python("print(1)")).stdout == "1\n"
    tools.stop()


async def test_an_effect_cut_off_by_a_crash_is_repeated_when_harmless_and_uncertain_otherwise(
    start_tools: Any, client: Any, eventually: Any, target: Any, unique: Any, effect: Any, state: Path
) -> None:
    tools = start_tools(STATE_DIR=str(state))
    alice = client(tools.target)
    path = f"/{unique('crash')}"
    await alice.put("crash.post", target.url + path, idempotent=False)
    release = asyncio.Event()
    target.answers[path] = lambda handler: _wait(release)
    pay, compute = (effect(f"{unique('run_')}/{step}/1") for step in ("pay", "compute"))
    program = "import os, time\nopen('result.json', 'w').write('1')\ntime.sleep({})"
    calls = [
        asyncio.create_task(alice.invoke("crash.post", effect=pay)),
        asyncio.create_task(alice.invoke("python", {"code": program.format("3")}, effect=compute)),
    ]
    await eventually(lambda: target.to(path))
    await eventually(lambda: program_runs(state), timeout=30)
    tools.stop(signal.SIGKILL)
    await asyncio.gather(*calls, return_exceptions=True)
    release.set()
    again = start_tools(STATE_DIR=str(state), DATABASE_URL=tools.environment["SLIPWAY_TOOLS_DATABASE_URL"])
    alice = client(again.target)
    pay.epoch = compute.epoch = 2
    answer = await alice.invoke("python", {"code": program.format("3")}, effect=compute)
    assert answer.output_json == "1"
    with pytest.raises(SlipwayError) as uncertain:
        await alice.invoke("crash.post", effect=pay)
    assert uncertain.value.reason == "EFFECT_UNCERTAIN"
    assert len(target.to(path)) == 1
    again.stop()


def _wait(release: asyncio.Event) -> None:
    import time

    deadline = time.monotonic() + 30
    while not release.is_set() and time.monotonic() < deadline:
        time.sleep(0.05)


def can_forbid() -> bool:
    return subprocess.run(["/bin/sh", "-c", f"{forbids()} true"], check=False).returncode == 0


async def test_where_the_kernel_forbids_sandboxes_code_is_refused_and_http_tools_work(
    start_tools: Any, client: Any, target: Any, unique: Any, tmp_path: Path
) -> None:
    trace = tmp_path / "ran-unprotected"
    if not can_forbid():
        pytest.skip("needs user namespaces to forbid them")
    tools = start_tools(before=forbids())
    try:
        alice = client(tools.target)
        with pytest.raises(SlipwayError) as refused:
            await alice.python(f"open({str(trace)!r}, 'w')")
        assert (refused.value.kind, refused.value.reason) == (ErrorKind.UNAVAILABLE, "SANDBOX_UNAVAILABLE")
        assert "user namespace" in refused.value.message
        assert not os.path.exists(trace)  # noqa: ASYNC240
        await alice.put("still.post", f"{target.url}/{unique('still')}")
        assert not (await alice.invoke("still.post")).HasField("error")
        assert "sandbox.unavailable" in tools.log_file.read_text()
    finally:
        tools.stop()


def check(before: str = "exec", python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f"{before} {python} -m slipway_tools.sandbox_check"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_check_says_what_protects(tmp_path: Path) -> None:
    done = check(SLIPWAY_TOOLS_STATE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(
        "nsjail: namespaces user, mount, pid, ipc, uts, net, cgroup; seccomp allow list; rlimits"
    )


@pytest.mark.parametrize("kind", ["user", "net", "pid", "mnt"])
def test_the_check_names_the_setting_that_is_missing(tmp_path: Path, kind: str) -> None:
    if not can_forbid():
        pytest.skip("needs user namespaces to forbid them")
    done = check(forbids(kind), SLIPWAY_TOOLS_STATE_DIR=str(tmp_path))
    assert done.returncode == 1
    assert f"user.max_{kind}_namespaces is 0" in done.stdout
    assert done.stdout.count("\n") == 1


def test_the_check_says_when_its_folder_cannot_be_written() -> None:
    done = check(SLIPWAY_TOOLS_STATE_DIR="/proc/nowhere")
    assert done.returncode == 1
    assert "can't be put into /proc/nowhere" in done.stdout


def test_an_ordinary_user_gets_the_same_sandbox_with_the_downgrade_declared(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not Path(python).exists():
        pytest.skip(f"needs root, setpriv and {python} to become another user")
    folder = Path("/tmp") / tmp_path_factory.mktemp("user").name
    folder.mkdir()
    shutil.chown(folder, 65534, 65534)
    try:
        path = os.pathsep.join(
            entry for entry in sys.path if (entry and "/lib/python3" not in entry) or "site-packages" in entry
        )
        done = check(
            "exec setpriv --reuid=65534 --regid=65534 --clear-groups",
            python,
            SLIPWAY_TOOLS_STATE_DIR=str(folder),
            PYTHONPATH=path,
            PYTHONDONTWRITEBYTECODE="1",
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "seccomp allow list" in done.stdout
        assert ("no cgroups (downgrade" in done.stdout) == ("cgroup v" not in done.stdout)
    finally:
        shutil.rmtree(folder)


def test_wrong_settings_end_with_a_sentence_and_status_2(warm: Any) -> None:
    done = warm("slipway_tools.main").run(environment={})
    assert done.returncode == 2
    assert "SLIPWAY_TOOLS_DATABASE_URL is not set" in done.stderr


def test_a_file_of_secrets_that_others_can_read_is_refused(start_tools: Any, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.yaml"
    secrets.write_text("a: b")
    secrets.chmod(0o644)
    with pytest.raises(AssertionError, match="chmod 600"):
        start_tools(SECRETS_FILE=str(secrets))


async def test_readiness_names_what_is_missing(start_tools: Any) -> None:
    import httpx

    tools = start_tools()
    async with httpx.AsyncClient() as web:
        ready = await web.get(f"http://127.0.0.1:{tools.metrics_port}/readyz")
    assert ready.status_code == 200, json.dumps(ready.text)
    tools.stop()
