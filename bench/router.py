"""The router against LiteLLM's proxy: chat completions through gateway and router, both pinned to one core.

Both arms check a key, count a rate limit, compute the cost and record the call; the provider (nginx) and the load (wrk)
have the other core, and so have our PostgreSQL (durable) and Valkey. Arms take turns, so that whatever else the machine
does meets both. One JSON line a figure; ratios are medians over rounds of two neighbouring runs. Where LiteLLM can't be
installed, a note says so and our figures stand alone.

Run: `python bench/router.py [--rounds 5] [--seconds 6] [--memory-requests 100000] [--busy]`
Needs Debian's packages nginx and wrk, and two cores. LiteLLM goes into a virtual environment under ~/.cache.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from router_bench.litellm_proxy import litellm_proxy
from router_bench.load import Door, Streams, first_answer, streams, wrk
from router_bench.provider import nginx
from router_bench.slipway import slipway
from slipway_testkit.servers.process import ServerProcess, ServerUnavailable, accepts_connections, free_port

ARM_CORE, LOAD_CORE = 0, 1
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slipway-bench"
BUSY_PERCENT = 15


@dataclass(frozen=True)
class Arm:
    """One side: its door, its processes, and those that work for it on the other core."""

    door: Door
    pids: tuple[int, ...]
    stores: tuple[int, ...] = ()

    def cpu(self) -> dict[str, float]:
        """Processor seconds so far: of the arm itself, process by process, and of its stores."""
        used = {f"cpu_{number}": _cpu(pid) for number, pid in enumerate(self.pids)}
        return used | {"stores": sum(_cpu(pid) for pid in self.stores)}

    def memory(self) -> float:
        """MiB resident, shared pages counted once (PSS)."""
        processes = [child for pid in self.pids for child in _family(pid)]
        return sum(process.memory_full_info().pss for process in processes) / 2**20


@dataclass(frozen=True)
class Measured:
    """One run of wrk and the processor time that it took, in milliseconds a request."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]
    requests: int

    @property
    def arm_ms(self) -> float:
        """Of the arm, without its stores."""
        return sum(value for name, value in self.cpu_ms.items() if name != "stores")


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _cpu(pid: int) -> float:
    """Processor seconds of a process and its children, ended ones included."""
    return sum(
        sum(process.cpu_times()[:2]) + (sum(process.cpu_times()[2:4]) if process.pid == pid else 0)
        for process in _family(pid)
    )


def _pin(pid: int, core: int) -> None:
    for process in _family(pid):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {core})


def figure(name: str, **facts: object) -> None:
    """Prints a figure."""
    print(json.dumps({"bench": "router", "figure": name, **facts}), flush=True)


class Bench:
    """Both arms and how they take turns."""

    def __init__(self, folder: Path, ours: Arm, peer: Arm | None, rounds: int, seconds: float) -> None:
        self._folder = folder
        self._arms = {"slipway": ours} | ({"litellm": peer} if peer else {})
        self._rounds = rounds
        self._seconds = seconds

    def load(self, arm: Arm, clients: int, seconds: float) -> Measured:
        """One run of whole answers."""
        before = arm.cpu()
        seen = wrk(arm.door, "whole", clients=clients, seconds=seconds, cpu=LOAD_CORE, folder=self._folder)
        after = arm.cpu()
        if seen.failed or not seen.requests:
            raise SystemExit(f"{seen.failed} of {seen.requests} requests failed: see the logs in {self._folder}")
        spent = {name: (after[name] - before[name]) * 1000 / seen.requests for name in before}
        return Measured(seen.requests / seen.seconds, seen.p50_ms, seen.p99_ms, spent, seen.requests)

    def turns(self, clients: int) -> dict[str, list[Measured]]:
        """Rounds of one run by each arm."""
        for arm in self._arms.values():
            # The first request of a process loads and connects what it needs.
            first_answer(arm.door, "whole")
            self.load(arm, clients, 2)
        runs: dict[str, list[Measured]] = {name: [] for name in self._arms}
        for _ in range(self._rounds):
            for name, arm in self._arms.items():
                runs[name].append(self.load(arm, clients, self._seconds))
        return runs

    def throughput(self) -> None:
        """Requests a second at 16 clients, and processor time a request."""
        runs = self.turns(16)
        compare("requests/s, 16 clients", runs, lambda run: run.per_second, target=">= 10")
        compare("p99 ms, 16 clients", runs, lambda run: run.p99_ms, target="<= 0.25")
        compare("CPU ms a request", runs, lambda run: run.arm_ms, target="printed")
        spent = {
            part: _median([run.cpu_ms[key] for run in runs["slipway"]])
            for part, key in (("gateway", "cpu_0"), ("router", "cpu_1"), ("postgres_and_valkey", "stores"))
        }
        figure("CPU ms a request, where", **spent)

    def latency(self) -> None:
        """Percentiles at one client."""
        runs = self.turns(1)
        compare("p50 ms, 1 client", runs, lambda run: run.p50_ms, target="<= 0.25")
        compare("p99 ms, 1 client", runs, lambda run: run.p99_ms, target="<= 0.25")

    def streaming(self) -> None:
        """64-delta streams, 16 at once."""
        os.sched_setaffinity(0, {LOAD_CORE})
        seen: dict[str, list[Streams]] = {name: [] for name in self._arms}
        for _ in range(max(self._rounds // 2, 1)):
            for name, arm in self._arms.items():
                seen[name].append(asyncio.run(streams(arm.door, "paced", clients=16, seconds=self._seconds)))
        os.sched_setaffinity(0, {ARM_CORE, LOAD_CORE})
        for percent in (50, 99):
            compare(
                f"stream: first delta, p{percent} ms", seen, lambda s, p=percent: s.percentile_ms(s.first, p), "<= 0.25"
            )
            compare(f"stream: a delta's way, p{percent} ms", seen, lambda s, p=percent: s.percentile_ms(s.late, p), "")
        compare(
            "stream: gap beyond the provider's, p99 ms", seen, lambda s: s.percentile_ms(s.gaps, 99), target="<= 0.25"
        )
        for name, runs in seen.items():
            figure(
                "stream: whole",
                arm=name,
                streams=sum(run.streams for run in runs),
                lost_frames=sum(run.lost for run in runs),
                stalls_over_20_ms=sum(run.stalls for run in runs),
                longest_ms=round(max(max(run.late) for run in runs) * 1000, 1),
            )

    def memory(self, requests: int) -> None:
        """Resident memory after a tenth of `requests`, and after all of them; LiteLLM is sent a tenth as many."""
        for name, arm in self._arms.items():
            wanted = requests if name == "slipway" else requests // 10
            resident, done = arm.memory(), 0
            figure("memory MiB, before", arm=name, value=round(resident, 1))
            marks = [wanted // 10, wanted // 2, wanted]
            for mark in marks:
                while done < mark:
                    done += self.load(arm, 16, 5).requests
                figure("memory MiB", arm=name, value=round(arm.memory(), 1), after_requests=done)


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def compare(name: str, runs: dict[str, list], value: Callable[..., float], target: str) -> None:
    """Prints medians of both arms and the median of their paired ratios."""
    values = {arm: [value(run) for run in seen] for arm, seen in runs.items()}
    facts: dict[str, object] = {arm: _median(seen) for arm, seen in values.items()}
    if "litellm" in values:
        pairs = zip(values["slipway"], values["litellm"], strict=True)
        facts["ratio"] = _median([ours / theirs for ours, theirs in pairs])
    figure(name, **facts, target=target)


def main() -> None:
    """Runs the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--memory-requests", type=int, default=100_000, help="0: not measured")
    parser.add_argument("--only", choices=["throughput", "latency", "streams", "memory"], action="append")
    parser.add_argument("--no-peer", action="store_true", help="our arm alone")
    parser.add_argument("--busy", action="store_true", help="measure although the machine is busy")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("this needs two cores")
    busy = psutil.cpu_percent(3)
    if busy > BUSY_PERCENT and not options.busy:
        sys.exit(f"the machine is busy ({busy:.0f} %): figures would tell of it (--busy measures all the same)")
    parts = options.only or ["throughput", "latency", "streams", "memory"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-bench-")))
        whole, nginx_pid = stack.enter_context(nginx(folder))
        port = free_port()
        paced = ServerProcess(
            "provider",
            [sys.executable, str(Path(__file__).parent / "router_bench" / "provider.py"), str(port)],
            folder / "provider.log",
        )
        paced.start(lambda: accepts_connections(port), timeout=20)
        stack.callback(paced.stop)
        streams_url = f"http://127.0.0.1:{port}/v1"
        running = stack.enter_context(slipway(folder, whole, streams_url))
        ours = Arm(running.door, (running.gateway, running.router), running.stores)
        peer = None
        if not options.no_peer:
            try:
                door, pid = stack.enter_context(litellm_proxy(CACHE, folder, whole, streams_url))
                peer = Arm(door, (pid,))
            except ServerUnavailable as error:
                figure("note", text=f"the peer is left out: {error}")
        for pid in (*ours.pids, *(peer.pids if peer else ())):
            _pin(pid, ARM_CORE)
        for pid in (nginx_pid, paced.pid, running.audit, *ours.stores):
            _pin(pid, LOAD_CORE)
        figure("machine", busy_percent=busy, cores=os.cpu_count(), rounds=options.rounds, seconds=options.seconds)
        bench = Bench(folder, ours, peer, options.rounds, options.seconds)
        if "throughput" in parts:
            bench.throughput()
        if "latency" in parts:
            bench.latency()
        if "streams" in parts:
            bench.streaming()
        if "memory" in parts and options.memory_requests:
            bench.memory(options.memory_requests)
        figure("end", at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


if __name__ == "__main__":
    main()
