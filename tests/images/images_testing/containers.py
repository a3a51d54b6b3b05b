"""The stack as `slipway up` plans it, with every service in a container of its image and real servers beside them."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console
from slipway_cli.supervisor.data_dir import DataDir, ProcessRecord, StackState
from slipway_cli.supervisor.events import Events
from slipway_cli.supervisor.plan import Options, make_plan
from slipway_cli.supervisor.ports import free_ports
from slipway_cli.supervisor.servers_file import RealServers
from slipway_cli.supervisor.spec import ProcessSpec
from slipway_cli.supervisor.supervise import Supervisor
from slipway_cli.supervisor.up import default_config, with_tour

PREFIX = os.environ.get("PREFIX", "slipway/")
# Root's files are given to the images' own user; for everybody else containers run as who starts the test.
USER = os.getuid() or 10001
LOCKED_DOWN = ("--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
# What the sandbox needs of a container: docs/images.md.
_SANDBOX = ("--security-opt", "seccomp=unconfined")
_WRITABLE = {"objects", "tools", "audit-heads"}
# The images bring these themselves.
_IN_IMAGES = re.compile(r"SLIPWAY_[A-Z]+_(POLICY_DIR|CATALOGUE_FILE|LITELLM_PYTHON)")


def tag() -> str:
    """The tag under test: TAG, or what `make images` gives without one."""
    describe = ["git", "describe", "--tags", "--always", "--dirty"]
    return os.environ.get("TAG") or subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()


def image(name: str) -> str:
    """The full name of an image."""
    return f"{PREFIX}{name}:{tag()}"


def docker(*arguments: str, check: bool = True, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a docker command; what it said is in the answer."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, env={**os.environ, **(env or {})})
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done


class Containers:
    """The stack while it runs."""

    def __init__(self, directory: DataDir, state: StackState, label: str) -> None:
        self.directory = directory
        self.state = state
        self._label = label

    def ids(self) -> dict[str, str]:
        """The running containers by process."""
        form = '{{.Label "slipway.process"}} {{.ID}}'
        lines = docker("ps", "--filter", f"label=slipway.test={self._label}", "--format", form).stdout.splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def keep_book(self) -> None:
        """Writes the state that commands read: which process of the machine each container's first one is."""
        self.state.processes = []
        for name, container in self.ids().items():
            pid = int(docker("inspect", "--format", "{{.State.Pid}}", container).stdout)
            self.state.processes.append(ProcessRecord(name, pid, psutil.Process(pid).create_time()))
        self.directory.save(self.state)

    async def tour(self, options: Options) -> tuple[int, str]:
        """Takes the tour: its exit status and what it said."""
        assert options.tour is not None
        env = {
            **os.environ,
            "SLIPWAY_DATA_DIR": str(self.directory.path),
            "SLIPWAY_LEDGER_PORT": str(options.tour.ledger_port),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, options.tour.script, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await process.communicate()
        return await process.wait(), said.decode()


def options() -> Options:
    """Embedded servers, two workers, and the example's ledger."""
    (port,) = free_ports(1)
    return with_tour(Options(port=port, workers=2, config=default_config(), servers=RealServers()))


@asynccontextmanager
async def running(data_dir: Path, chosen: Options) -> AsyncGenerator[Containers]:
    """The stack in containers, ready; stopped as a user stops it when it is left."""
    directory = DataDir(data_dir)
    directory.acquire()
    label = str(os.getpid())
    try:
        plan = await make_plan(directory, chosen)
        if os.getuid() == 0:
            _give_to_images(directory.path)
        specs = [_contained(spec, label) for spec in plan.processes]
        supervisor = Supervisor(specs, logs=directory.logs, events=Events(Console()))
        try:
            await supervisor.start(asyncio.Event())
            containers = Containers(directory, StackState(os.getpid(), plan.url, plan.issuer, ready=True), label)
            containers.keep_book()
            yield containers
        finally:
            await supervisor.stop()
    finally:
        left = docker("ps", "-aq", "--filter", f"label=slipway.test={label}").stdout.split()
        if left:
            docker("rm", "-f", *left, check=False)
        directory.release()


def _give_to_images(folder: Path) -> None:
    for path in (folder / "keys", *(folder / name for name in _WRITABLE), *folder.glob("*-secrets.yaml")):
        for one in (path, *path.rglob("*")) if path.exists() else ():
            os.chown(one, USER, USER)


def _contained(spec: ProcessSpec, label: str) -> ProcessSpec:
    """The process in a container of its image; servers and the development issuer stay as they are."""
    name = "orchestrator" if spec.name.startswith("worker-") else spec.name
    if spec.argv[0] != sys.executable or name == "issuer":
        return spec
    settings = {
        key: value for key, value in spec.env.items() if key.startswith("SLIPWAY_") and not _IN_IMAGES.match(key)
    }
    command: Sequence[str] = ("python", *map(str, spec.argv[1:])) if spec.name == "orchestrator" else ()
    argv = [
        *(shutil.which("docker") or "docker", "run", *LOCKED_DOWN, "--network", "host", "--tmpfs", "/tmp"),
        *("--user", f"{USER}:{USER}", "--label", f"slipway.test={label}", "--label", f"slipway.process={spec.name}"),
        *(_SANDBOX if name == "tools" else ()),
        *(part for key in settings for part in ("--env", key)),
        *(part for path in _paths(settings.values()) for part in ("--volume", path)),
        *(image(name), *command),
    ]
    # Containers of a busy machine are slow to start; one that cannot start ends by itself.
    return replace(spec, argv=tuple(argv), ready_within=300)


def _paths(values: Iterable[str]) -> list[str]:
    """Files and folders that settings name, as volumes at the same place."""
    found: set[str] = set()
    for value in values:
        for path in re.findall(r"^(?:[a-z-]+://)?(/[^?]+)", value):
            if Path(path).exists():
                found.add(f"{path}:{path}:{'rw' if Path(path).name in _WRITABLE else 'ro'}")
    return sorted(found)
